"""Datasets as arrays in memory, split three ways."""

from __future__ import annotations

import os
import shutil
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

import filelock
import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from experiments.data.builders import BUILDERS
from experiments.data.specs import SPECS, DataError
from experiments.data.splits import stratified_holdout

VALIDATION_SIZE = 5000
_SPLIT_SEED = 0  # one split for every run, so that validation errors can be compared


class Split(NamedTuple):
    """Images uint8 [n, h, w, c] and labels int32 [n]."""

    images: np.ndarray
    labels: np.ndarray


class Dataset(NamedTuple):
    """A dataset in three splits."""

    name: str
    train: Split
    validation: Split
    test: Split


def default_data_dir() -> Path:
    """``$SPARSEJAX_DATA_DIR``, else ``sparsejax`` in the user's cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("SPARSEJAX_DATA_DIR") or Path(cache) / "sparsejax")


def load(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    validation_size: int = VALIDATION_SIZE,
) -> Dataset:
    """Load a dataset, preparing it first where needed.

    Tried in this order: what is already prepared in ``data_dir``; files that the user put there;
    the dataset's own address if it answers within seconds; public package mirrors.

    Args:
      name: ``mnist``, ``fashion_mnist`` or ``cifar10``.
      data_dir: default `default_data_dir`; made if only its last part is missing.
      validation_size: images held out of the training set, the same ones at every call.

    Raises:
      ValueError: no such dataset, or ``data_dir`` is not a folder.
      DataError: every route failed (the message lists them), or the user's files are wrong.
    """
    if name not in SPECS:
        raise ValueError(f"name must be one of {sorted(SPECS)}; got {name!r}")
    folder = _check_folder(data_dir)
    spec = SPECS[name]
    with filelock.FileLock(folder / f".{name}.lock"):
        arrays = None
        builder = _builder(name, folder)
        if builder.is_prepared():
            try:
                arrays = spec.check(_read(builder), f"the prepared files in {builder.data_dir}")
            except Exception as error:  # whatever the reader makes of damaged files
                warnings.warn(f"prepared files are damaged, preparing again: {error}", stacklevel=2)
                shutil.rmtree(builder.data_dir)
                builder = _builder(name, folder)
        if arrays is None:
            if not sys.stderr.isatty():
                tfds.disable_progress_bar()
            builder.download_and_prepare()
            arrays = spec.check(_read(builder), f"the prepared files in {builder.data_dir}")
    labels = {split: arrays[f"{split}_labels"].astype(np.int32) for split in ("train", "test")}
    train, validation = stratified_holdout(labels["train"], validation_size, _SPLIT_SEED)
    images = arrays["train_images"]
    return Dataset(
        name,
        train=Split(images[train], labels["train"][train]),
        validation=Split(images[validation], labels["train"][validation]),
        test=Split(arrays["test_images"], labels["test"]),
    )


def _builder(name: str, folder: Path) -> tfds.core.DatasetBuilder:
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)  # or it warns that nothing is prepared yet
    try:
        return BUILDERS[name](data_dir=folder)
    finally:
        logging.set_verbosity(verbosity)


def _read(builder: tfds.core.DatasetBuilder) -> dict[str, np.ndarray]:
    arrays = {}
    for split in ("train", "test"):
        source = builder.as_data_source(split)
        rows = source.__getitems__(range(len(source)))
        arrays[f"{split}_images"] = np.stack([row["image"] for row in rows])
        arrays[f"{split}_labels"] = np.asarray([row["label"] for row in rows], np.uint8)
    return arrays


def _check_folder(data_dir: str | os.PathLike[str] | None) -> Path:
    if data_dir is None:
        folder = default_data_dir()
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    folder = Path(data_dir).expanduser().absolute()
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"data_dir must be a folder; {folder} is a file")
    if not folder.parent.is_dir():
        raise ValueError(f"data_dir must be a folder; {folder.parent} does not exist")
    folder.mkdir(exist_ok=True)
    return folder


__all__ = ["DataError", "Dataset", "Split", "default_data_dir", "load"]
