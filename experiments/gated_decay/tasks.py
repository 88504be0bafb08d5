"""What is trained: a network, its loss and its data, the same for `train` whatever they are."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from experiments.common.augment import shifted_and_mirrored
from experiments.common.loss import cross_entropy
from experiments.common.runs import error
from experiments.common.vgg16 import imagenet_vgg16
from experiments.data import Dataset
from experiments.data.imagenet import ImageNetBatches, ImageNetEvaluation
from sparsejax import deploy, inspection
from sparsejax.models import (
    LENET5_LAYERS,
    VGG16_LAYERS,
    LeNet5,
    purged_lenet5,
)
from sparsejax.training import Batches, BatchSource, Callback, StepFunction, revise
from sparsejax.transforms import Pruner, prune_state, pruning_step

SplitName = Literal["train", "validation", "test"]
_PIECE = 1000  # images whose gradient shows what the cheap regulariser neglects
_FEW = 8  # the same of VGG-16, which differentiates twice through them
_CHUNK = 500  # images a forward pass of the assessment inside the step


class Pruning(NamedTuple):
    """How pruning joins a training step."""

    step: StepFunction
    stop_every: int
    """Steps between two looks at whether the pruning has ended."""
    validation_error: Callable[[Any], float]
    """``state -> per cent`` for the reports."""
    callbacks: Sequence[Callback] = ()
    """What ``fit`` is to call besides."""
    report_every: int | None = None


class Smaller(NamedTuple):
    """A pruned network at the size of what is left of it."""

    task: Task
    params: Any
    restore: Callable[[Any], Any]
    """From its parameters to the original shapes."""


class Task(Protocol):
    """A network with its data."""

    layers: tuple[str, ...]
    initial: Any
    """The parameters at the beginning."""
    steps_per_epoch: int

    def batches(self, seed: int) -> Batches | BatchSource:
        """The training images, in an order that depends on the seed."""
        ...

    def loss(
        self, params: Any, batch: Any, key: jax.Array, augment: bool = True
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Cross-entropy and metrics of a batch, whose images may be augmented first."""
        ...

    def error(self, params: Any, split: SplitName) -> float:
        """Misclassified images of a split, in per cent."""
        ...

    def gradient(self, params: Any) -> Any:
        """Of the loss on a piece of the training data, always the same."""
        ...

    def pruning(self, step: StepFunction, pruner: Pruner, every: int) -> Pruning:
        """``step`` with an assessment on the validation split after every ``every``."""
        ...

    def smaller(self, params: Any) -> Smaller:
        """The network that is left of ``params`` without dead units, to be trained on."""
        ...

    def with_validation(self) -> Task:
        """The same with the validation images among those it is trained on."""
        ...


class LeNet5Task:
    """LeNet5 on images that fit into memory; pruned inside the training step."""

    layers: tuple[str, ...] = LENET5_LAYERS

    def __init__(self, dataset: Dataset, settings: Mapping[str, Any], model: LeNet5):
        self._dataset, self._settings = dataset, settings
        self._graph, self.initial, self._rest = nnx.split(model, nnx.Param, ...)
        train = dataset.train
        self._arrays = {"image": train.images, "label": train.labels}
        self.steps_per_epoch = len(train.labels) // settings["batch_size"]
        self._mistakes = jax.jit(lambda p, x, y: (self._logits(p, x).argmax(-1) != y).sum())

    def batches(self, seed):
        """See `Task`."""
        return Batches(self._arrays, self._settings["batch_size"], seed)

    def loss(self, params, batch, key, augment=True):
        """See `Task`."""
        images, settings = batch["image"], self._settings
        if augment:
            images = shifted_and_mirrored(images, key, settings["shift"], settings["mirror"])
        logits = self._logits(params, images)
        return cross_entropy(logits, batch["label"])

    def error(self, params, split):
        """See `Task`."""
        return error(self._mistakes, params, getattr(self._dataset, split))

    def gradient(self, params):
        """See `Task`."""
        images, labels = self._dataset.train
        batch = {"image": images[:_PIECE], "label": labels[:_PIECE]}
        return jax.grad(lambda p: self.loss(p, batch, jax.random.key(0), augment=False)[0])(params)

    def pruning(self, step, pruner, every):
        """See `Task`."""
        step = pruning_step(step, pruner, self._accuracy, every)
        return Pruning(
            step, self.steps_per_epoch, lambda state: self.error(state.params, "validation")
        )

    def smaller(self, params):
        """See `Task`; itself where nothing is left of it."""
        if not all(inspection.live_units(params, self.layers)):
            return Smaller(self, params, lambda params: params)
        task = LeNet5Task(self._dataset, self._settings, purged_lenet5(params))
        shrunk = deploy.shrink(deploy.Network(self._logits, params), self._dataset.test.images[:1])

        def restore(smaller):
            return deploy.expand(shrunk.with_params(smaller)).params

        return Smaller(task, task.initial, restore)

    def with_validation(self):
        """See `Task`."""
        pairs = zip(self._dataset.train, self._dataset.validation, strict=True)
        images, labels = (np.concatenate(pair) for pair in pairs)
        task = copy.copy(self)
        task._arrays = {"image": images, "label": labels}
        task.steps_per_epoch = len(labels) // self._settings["batch_size"]
        return task

    def _logits(self, params, images):
        return nnx.merge(self._graph, params, self._rest)(images.astype(jnp.float32) / 255)

    def _accuracy(self, params):
        """On the validation split, inside a step."""
        images, labels = self._dataset.validation

        def right(chunk):
            return (self._logits(params, chunk[0]).argmax(-1) == chunk[1]).sum()

        chunks = jax.tree.map(
            lambda array: jnp.asarray(array).reshape(-1, _CHUNK, *array.shape[1:]), (images, labels)
        )
        return lax.map(right, chunks).sum() / len(labels)


class VGG16Task:
    """VGG-16 on ImageNet, read from disk; pruned between steps.

    Half of the published validation images decide when weights are pruned, the other half is the
    test split: the labels of ImageNet's own test images are not public.
    """

    layers: tuple[str, ...] = VGG16_LAYERS
    splits: Mapping[SplitName, str] = {
        "train": "train", "validation": "validation[:50%]", "test": "validation[50%:]"
    }  # fmt: skip

    def __init__(self, data_dir: Path, settings: Mapping[str, Any], seed: int):
        self._data_dir, self._batch_size = data_dir, settings["batch_size"]
        self._batches = ImageNetBatches(data_dir, self._batch_size, seed)
        self.steps_per_epoch = self._batches.steps_per_epoch
        self._graph, self.initial, self._rest = imagenet_vgg16(
            settings["width"], seed, settings["weights"] or None
        )
        self._wrong = jax.jit(self._weighted_mistakes)

    def batches(self, seed):
        """See `Task`; the order was chosen when it was made."""
        del seed
        return self._batches

    def loss(self, params, batch, key, augment=True):
        """See `Task`; with dropout. The pipeline has augmented the images."""
        del augment
        model = nnx.merge(self._graph, params, self._rest)
        model.train()
        logits = model(batch["image"], rngs=nnx.Rngs(dropout=key))
        return cross_entropy(logits, batch["label"])

    def error(self, params, split):
        """See `Task`."""
        images = ImageNetEvaluation(self._data_dir, self._batch_size, split=self.splits[split])
        wrong = sum(float(self._wrong(params, batch)) for batch in images)
        return 100 * wrong / images.examples

    def gradient(self, params):
        """See `Task`."""
        arrays, _ = self._batches.block(0, 1)
        batch = {name: array[0, :_FEW] for name, array in arrays.items()}
        return jax.grad(lambda p: self.loss(p, batch, jax.random.key(0))[0])(params)

    def pruning(self, step, pruner, every):
        """See `Task`."""
        found: dict[int, float] = {}
        prune = jax.jit(lambda state, accuracy: prune_state(state, pruner, accuracy))

        def assess(state):
            found[int(state.step)] = self.error(state.params, "validation")
            return prune(state, 1 - found[int(state.step)] / 100)

        def validation_error(state):
            """That of the assessment, before the pruning: the images are read once."""
            if int(state.step) in found:
                return found[int(state.step)]
            return self.error(state.params, "validation")

        return Pruning(step, every, validation_error, [revise(assess, every)], every)

    def smaller(self, params):
        """See `Task`; itself: in a network that is not thinned by units hardly one dies."""
        return Smaller(self, params, lambda params: params)

    def with_validation(self):
        """See `Task`; not this one: half of its validation images are the test split."""
        raise ValueError("--finetune-whole is for --model lenet5 alone")

    def _weighted_mistakes(self, params, batch):
        model = nnx.merge(self._graph, params, self._rest)
        model.eval()
        wrong = model(batch["image"]).argmax(-1) != batch["label"]
        return (batch["weight"] * wrong).sum()
