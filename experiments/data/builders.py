"""TFDS builders that write and read array_record files without TensorFlow.

``tfds.features.Tensor`` in place of ``Image`` avoids TensorFlow's PNG codec.
"""

from __future__ import annotations

import shutil
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from experiments.data.fetch import fetch
from experiments.data.specs import Arrays, Spec


class _Builder(tfds.core.GeneratorBasedBuilder):
    """Images as uint8 tensors and their labels, in the published order."""

    VERSION = tfds.core.Version("1.0.0")
    name = "sparsejax"

    def __init__(self, spec: Spec, folder: Path):
        self.name = f"sparsejax_{spec.name}"
        self.fetched: Arrays = {}
        self._spec, self._folder = spec, folder
        super().__init__(data_dir=folder, file_format=tfds.core.FileFormat.ARRAY_RECORD)

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict({
            "image": tfds.features.Tensor(shape=self._spec.image_shape, dtype=np.uint8),
            "label": tfds.features.Scalar(dtype=np.uint8),
        })  # fmt: skip
        return self.dataset_info_from_configs(
            description=self._spec.title,
            features=features,
            disable_shuffling=True,  # keeps the published order, so that the checksums hold
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager  # `fetch` has its own routes
        self.fetched = fetch(self._spec, self._folder)
        return {split: self._generate_examples(split) for split in ("train", "test")}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        images, labels = (self.fetched[f"{split}_{kind}"] for kind in ("images", "labels"))
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield number, {"image": image, "label": label}


def prepare(spec: Spec, folder: Path) -> Arrays:
    """Return a dataset's arrays, read from the files that TFDS prepares in ``folder``.

    Files that are damaged are deleted with a warning and prepared again.

    Raises:
      DataError: every route failed, or the user's files are wrong.
    """
    builder = _builder(spec, folder)
    if builder.is_prepared():
        try:
            return spec.check(_read(builder), f"the prepared files in {builder.data_dir}")
        except Exception as error:  # the reader raises many kinds for damaged files
            warnings.warn(f"prepared files are damaged, preparing again: {error}", stacklevel=3)
            shutil.rmtree(builder.data_dir)
            builder = _builder(spec, folder)
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    builder.download_and_prepare()
    return builder.fetched


def _builder(spec: Spec, folder: Path) -> _Builder:
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)  # it warns where nothing is prepared yet
    try:
        return _Builder(spec, folder)
    finally:
        logging.set_verbosity(verbosity)


def _read(builder: _Builder) -> Arrays:
    arrays = {}
    for split in ("train", "test"):
        source = builder.as_data_source(split)
        rows = source.__getitems__(range(len(source)))
        arrays[f"{split}_images"] = np.stack([row["image"] for row in rows])
        arrays[f"{split}_labels"] = np.asarray([row["label"] for row in rows], np.uint8)
    return arrays
