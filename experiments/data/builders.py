"""TFDS builders that write and read array_record files without TensorFlow.

``tfds.features.Tensor`` in place of ``Image`` keeps TensorFlow's PNG codec out of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

from experiments.data.fetch import fetch
from experiments.data.specs import CIFAR10, FASHION_MNIST, MNIST, Spec


class _SparsejaxBuilder(tfds.core.GeneratorBasedBuilder):
    """Images as uint8 tensors and their labels, in the published order."""

    VERSION = tfds.core.Version("1.0.0")
    spec: ClassVar[Spec]
    skip_registration = True

    def __init__(self, *, data_dir: Path):
        self._folder = Path(data_dir)
        super().__init__(data_dir=data_dir, file_format=tfds.core.FileFormat.ARRAY_RECORD)

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict({
            "image": tfds.features.Tensor(shape=self.spec.image_shape, dtype=np.uint8),
            "label": tfds.features.Scalar(dtype=np.uint8),
        })  # fmt: skip
        return self.dataset_info_from_configs(
            description=self.spec.title,
            features=features,
            disable_shuffling=True,  # the published order, so that checksums hold when read back
        )

    def _split_generators(self, dl_manager):
        del dl_manager  # the chain of routes is our own
        arrays = fetch(self.spec, self._folder)
        return {
            split: self._generate_examples(arrays[f"{split}_images"], arrays[f"{split}_labels"])
            for split in ("train", "test")
        }

    def _generate_examples(self, images, labels):
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield number, {"image": image, "label": label}


class SparsejaxMnist(_SparsejaxBuilder):
    """MNIST."""

    spec = MNIST


class SparsejaxFashionMnist(_SparsejaxBuilder):
    """Fashion-MNIST."""

    spec = FASHION_MNIST


class SparsejaxCifar10(_SparsejaxBuilder):
    """CIFAR-10."""

    spec = CIFAR10


BUILDERS = {cls.spec.name: cls for cls in (SparsejaxMnist, SparsejaxFashionMnist, SparsejaxCifar10)}
