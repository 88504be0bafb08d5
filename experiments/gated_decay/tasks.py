"""LeNet5 and VGG-16 with their losses and data, behind one interface."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.common.augment import shifted_and_mirrored
from experiments.common.distillation import distillation_losses
from experiments.common.networks import (
    accuracy,
    cross_entropy,
    error,
    imagenet_vgg16,
    mistakes,
    mnist_classifier,
)
from experiments.data import Dataset
from experiments.data.imagenet import ImageNetBatches, ImageNetEvaluation
from sparsejax import deploy, inspection
from sparsejax.models import LENET5_LAYERS, VGG16_LAYERS, LeNet5, purged_lenet5
from sparsejax.training import Batches, StepFunction, TrainState, revise
from sparsejax.transforms import Pruner, prune_state, pruning_step

SplitName = Literal["train", "validation", "test"]
_TEMPERATURE = 2.0
_PIECE = 1000  # images whose gradient shows what the cheap regulariser neglects
_FEW = 8  # the same for VGG-16, which is differentiated twice


class Pruning(NamedTuple):
    """The part of a training step that prunes."""

    step: StepFunction[TrainState]
    stop_every: int
    """Steps between two looks at whether the pruning has ended."""
    validation_error: Callable[[Any], float]
    """``state -> per cent`` for the reports."""
    options: Mapping[str, Any] = {}
    """Further arguments of `Run.fit`."""


class LeNet5Task:
    """LeNet5 on images that fit into memory; pruned inside the training step.

    Args:
      dataset: MNIST or Fashion-MNIST.
      settings: of the row.
      model: the network, perhaps a purged one.
    """

    layers: tuple[str, ...] = LENET5_LAYERS

    def __init__(self, dataset: Dataset, settings: Mapping[str, Any], model: LeNet5):
        self._dataset, self._settings = dataset, settings
        self._logits, self.initial = mnist_classifier(model)
        self._mistakes = mistakes(self._logits)
        self._train_on(*dataset.train)

    def _train_on(self, images: np.ndarray, labels: np.ndarray) -> None:
        self._data = {"image": images, "label": labels}
        self.steps_per_epoch = len(labels) // self._settings["batch_size"]

    def batches(self, seed: int) -> Any:
        """The training images, in an order that depends on the seed."""
        return Batches(self._data, self._settings["batch_size"], seed)

    def loss(
        self, params: Any, batch: Any, key: jax.Array, augment: bool = True
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Cross-entropy and metrics of a batch, whose images may be augmented first."""
        images = self._augmented(batch["image"], key) if augment else batch["image"]
        return cross_entropy(self._logits(params, images), batch["label"])

    def _augmented(self, images: jax.Array, key: jax.Array) -> jax.Array:
        settings = self._settings
        return shifted_and_mirrored(images, key, settings["shift"], settings["mirror"])

    def loss_towards(self, dense: LeNet5Task, teacher: Any, weight: float) -> Any:
        """Return a loss of which a share is the divergence from the outputs of the dense network.

        Both networks see the same augmented images, and their logits are divided by the same
        temperature; the divergence counts its square, so that its gradient keeps its size.

        Args:
          dense: the task of the dense network.
          teacher: the parameters of that network.
          weight: the share of the divergence in the loss, in (0, 1].
        """

        def loss(params: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, Any]:
            images = self._augmented(batch["image"], key)
            logits = self._logits(params, images)
            hard, metrics = cross_entropy(logits, batch["label"])
            outputs = dense._logits(teacher, images) / _TEMPERATURE
            soft = distillation_losses(logits / _TEMPERATURE, outputs).mean() * _TEMPERATURE**2
            return (1 - weight) * hard + weight * soft, metrics

        return loss

    def error(self, params: Any, split: SplitName) -> float:
        """Misclassified images of a split, in per cent."""
        return float(error(self._mistakes, params, getattr(self._dataset, split)))

    def examples(self) -> dict[str, np.ndarray]:
        """The first images of the training data, with their labels."""
        return {name: array[:_PIECE] for name, array in self._data.items()}

    def gradient(self, params: Any, batch: Any) -> Any:
        """Gradient of the loss on a batch that is not augmented."""
        return jax.grad(lambda p: self.loss(p, batch, jax.random.key(0), augment=False)[0])(params)

    def pruning(self, step: StepFunction[TrainState], pruner: Pruner, every: int) -> Pruning:
        """``step`` with an evaluation on the validation split after every ``every`` steps."""
        accuracy_of = functools.partial(accuracy, self._logits, split=self._dataset.validation)
        step = pruning_step(step, pruner, accuracy_of, every)
        return Pruning(
            step, self.steps_per_epoch, lambda state: self.error(state.params, "validation")
        )

    def smaller(self, params: Any) -> tuple[LeNet5Task, Any, Callable[[Any], Any]]:
        """The purged network, its parameters, and the function that restores their shapes."""
        if not all(inspection.live_units(params, self.layers)):
            return self, params, lambda params: params
        task = LeNet5Task(self._dataset, self._settings, purged_lenet5(params))
        shrunk = deploy.shrink(deploy.Network(self._logits, params), self._dataset.test.images[:1])
        return task, task.initial, lambda smaller: deploy.expand(shrunk.with_params(smaller)).params

    def with_validation(self) -> LeNet5Task:
        """The same task with the validation images among those it is trained on."""
        pairs = zip(self._dataset.train, self._dataset.validation, strict=True)
        task = copy.copy(self)
        task._train_on(*(np.concatenate(pair) for pair in pairs))
        return task


class VGG16Task:
    """VGG-16 on ImageNet, read from disk; pruned between steps. See `LeNet5Task` for the methods.

    Half of the published validation images decide when weights are pruned, the other half is the
    test split: the labels of ImageNet's own test images are not public.
    """

    layers: tuple[str, ...] = VGG16_LAYERS
    splits: Mapping[SplitName, str] = {
        "train": "train", "validation": "validation[:50%]", "test": "validation[50%:]"
    }  # fmt: skip

    def __init__(self, data_dir: Path, settings: Mapping[str, Any], seed: int):
        self._data_dir, self._batch_size = data_dir, settings["batch_size"]
        self._data = ImageNetBatches(data_dir, self._batch_size, seed)
        self.steps_per_epoch = self._data.steps_per_epoch
        weights = settings["weights"] or None
        self._graph, self.initial, self._rest = imagenet_vgg16(settings["width"], seed, weights)
        self._wrong = jax.jit(self._weighted_mistakes)

    def batches(self, seed: int) -> Any:
        """The training images, in the order of the seed that the task was made with."""
        del seed
        return self._data

    def loss(
        self, params: Any, batch: Any, key: jax.Array, augment: bool = True
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Cross-entropy with dropout; the pipeline has augmented the images."""
        del augment
        model = nnx.merge(self._graph, params, self._rest)
        model.train()
        logits = model(batch["image"], rngs=nnx.Rngs(dropout=key))
        return cross_entropy(logits, batch["label"])

    def error(self, params: Any, split: SplitName) -> float:
        images = ImageNetEvaluation(self._data_dir, self._batch_size, split=self.splits[split])
        wrong = sum(float(self._wrong(params, batch)) for batch in images)
        return 100 * wrong / images.examples

    def examples(self) -> dict[str, np.ndarray]:
        arrays, _ = self._data.block(0, 1)
        return {name: array[0, :_FEW] for name, array in arrays.items()}

    def gradient(self, params: Any, batch: Any) -> Any:
        return jax.grad(lambda p: self.loss(p, batch, jax.random.key(0))[0])(params)

    def pruning(self, step: StepFunction[TrainState], pruner: Pruner, every: int) -> Pruning:
        found: dict[int, float] = {}  # by step, before the pruning: the images are read once
        prune = jax.jit(lambda state, accuracy: prune_state(state, pruner, accuracy))

        def assess(state: TrainState) -> TrainState:
            found[int(state.step)] = self.error(state.params, "validation")
            pruned: TrainState = prune(state, 1 - found[int(state.step)] / 100)
            return pruned

        def validation_error(state: TrainState) -> float:
            number = int(state.step)
            return found[number] if number in found else self.error(state.params, "validation")

        options = {"callbacks": [revise(assess, every)], "report_every": every}
        return Pruning(step, every, validation_error, options)

    def smaller(self, params: Any) -> tuple[VGG16Task, Any, Callable[[Any], Any]]:
        """The task itself: hardly a unit dies where single weights are pruned."""
        return self, params, lambda params: params

    def with_validation(self) -> VGG16Task:
        """Raise an error: half of the validation images are the test split."""
        raise ValueError("--finetune-whole is for --model lenet5 alone")

    def _weighted_mistakes(self, params: Any, batch: Any) -> jax.Array:
        model = nnx.merge(self._graph, params, self._rest)
        model.eval()
        wrong = model(batch["image"]).argmax(-1) != batch["label"]
        return jnp.sum(batch["weight"] * wrong)


Task = LeNet5Task | VGG16Task
