"""A run that trains a network of MNIST's format on images in memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from flax import nnx

from experiments.common.networks import cross_entropy, error, mistakes, mnist_classifier
from experiments.common.runner import Run
from experiments.data import Dataset
from sparsejax.training import Batches


class ClassifierRun(Run):
    """A run with a network and its data; the settings have a ``batch_size``.

    Args:
      row: the row of the report that it belongs to.
      folder: its own.
      settings: what defines it, as JSON values.
      seed: the seed of the parameters and of the order of the images.
      resume: whether to continue what is in the folder.
      dataset: what it is trained on.
      model: the network with its initial parameters.
    """

    def __init__(
        self,
        row: str,
        folder: Path,
        settings: Mapping[str, Any],
        seed: int,
        resume: bool,
        dataset: Dataset,
        model: nnx.Module,
    ):
        super().__init__(row, folder, settings, seed, resume)
        self.dataset = dataset
        self.logits, self.initial = mnist_classifier(model)
        self._mistakes = mistakes(self.logits)
        self.steps_per_epoch = len(dataset.train.labels) // self.settings["batch_size"]

    def loss(self, params: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, dict[str, Any]]:
        """Cross-entropy of a batch, and metrics."""
        del key
        return cross_entropy(self.logits(params, batch["image"]), batch["label"])

    def error(self, params: Any, split: str) -> float:
        """Misclassified images of a split in per cent."""
        return float(error(self._mistakes, params, getattr(self.dataset, split)))

    def batches(self, order: int) -> Batches:
        """The training images in an order that is a seed's."""
        train = self.dataset.train
        images = {"image": train.images, "label": train.labels}
        return Batches(images, self.settings["batch_size"], order)
