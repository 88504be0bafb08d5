"""A network, its data and one budget of weights and epochs, for a method to spend."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import lax

import sparsejax
from experiments.common.networks import cross_entropy, error, mistakes, mnist_classifier
from experiments.common.runner import Run
from experiments.data import Dataset
from sparsejax import inspection
from sparsejax.training import Batches, StepFunction, TrainState, init_state, make_step
from sparsejax.transforms import all_together, kept_weights, project_sparsity

_CHECKPOINT_EPOCHS = 25
_CHUNK = 1000  # images a forward pass of an evaluation inside a step


class Trainer(Run):
    """What every method trains with: the same loss, data, order of images and initial weights.

    Args:
      row: the row of the report that it belongs to.
      folder: its own.
      settings: see `experiments.compare.config.Config.settings`.
      seed: the seed of the parameters and of the order of the images.
      resume: whether to continue what is in the folder.
      dataset: it is trained on.
      model: the network, made by ``model(rngs=)``.
    """

    def __init__(
        self,
        row: str,
        folder: Path,
        settings: Mapping[str, Any],
        seed: int,
        resume: bool,
        dataset: Dataset,
        model: Callable[..., nnx.Module],
    ):
        super().__init__(row, folder, settings, seed, resume)
        self.dataset = dataset
        self.logits, self.initial = mnist_classifier(model(rngs=nnx.Rngs(seed)))
        self._mistakes = mistakes(self.logits)
        self.steps_per_epoch = len(dataset.train.labels) // self.settings["batch_size"]
        self.epochs: int = self.settings["epochs"]
        self.sparsity = float(1 - Decimal(self.settings["kept_percent"]) / 100)
        self.kernel_weights = inspection.report(self.initial).size
        self.kept = int(kept_weights(self.kernel_weights, self.sparsity))

    def share(self, fraction: float) -> int:
        """``fraction`` of all epochs, at least one."""
        return max(1, round(fraction * self.epochs))

    def loss(self, params: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, dict[str, Any]]:
        """Cross-entropy of a batch."""
        del key
        return cross_entropy(self.logits(params, batch["image"]), batch["label"])

    def error(self, params: Any, split: str) -> float:
        """Misclassified images of a split in per cent."""
        found: float = error(self._mistakes, params, getattr(self.dataset, split))
        return found

    def validation_accuracy(self, params: Any) -> jax.Array:
        """Accuracy in [0, 1] on the validation images, inside a step."""
        images, labels = self.dataset.validation

        def right(chunk: Any) -> jax.Array:
            count: jax.Array = (self.logits(params, chunk[0]).argmax(-1) == chunk[1]).sum()
            return count

        chunks = jax.tree.map(
            lambda array: jnp.asarray(array).reshape(-1, _CHUNK, *array.shape[1:]), (images, labels)
        )
        share: jax.Array = lax.map(right, chunks).sum() / len(labels)
        return share

    def project(self, params: Any) -> Any:
        """The ``kept`` weights of largest magnitude of all kernels together."""
        return project_sparsity(params, self.sparsity, all_together())

    def sgd(self, rate: float, epochs: int) -> optax.GradientTransformation:
        """SGD with Nesterov momentum 0.9, whose rate falls to 0 along a cosine.

        It rises linearly from 0 first, in the setting ``warmup_share`` of the steps, if there is
        one.
        """
        steps = epochs * self.steps_per_epoch
        warmup = int(self.settings.get("warmup_share", 0) * steps)
        schedule = optax.warmup_cosine_decay_schedule(0.0 if warmup else rate, rate, warmup, steps)
        return optax.sgd(schedule, momentum=0.9, nesterov=True)

    def descend(
        self,
        phase: str,
        params: Any,
        optimizer: optax.GradientTransformation,
        epochs: int,
        loss: Any = None,
        shown: Callable[[TrainState], Any] = lambda state: state.params,
    ) -> TrainState:
        """Minimise the loss, or ``loss``, for some epochs; errors are those of ``shown(state)``."""
        state = init_state(params, optimizer, jax.random.key(self.seed))
        step = make_step(loss or self.loss, optimizer)
        final: TrainState = self.run(phase, step, state, epochs, shown)
        return final

    def fine_tune(self, phase: str, params: Any, rate: float, epochs: int) -> Any:
        """Train the biases and the weights of kernels that are not zero."""
        mask = jax.tree.map(lambda leaf: (leaf != 0) | (leaf.ndim < 2), params)
        optimizer = optax.chain(self.sgd(rate, epochs), sparsejax.hold_zeros(mask))
        return self.descend(phase, params, optimizer, epochs).params

    def run(
        self,
        phase: str,
        step: StepFunction[Any],
        state: Any,
        epochs: int,
        shown: Callable[[Any], Any] = lambda state: state.params,
    ) -> Any:
        """Take the steps of some epochs in a phase, each with an order of its own."""
        train = self.dataset.train
        images = {"image": train.images, "label": train.labels}
        order = 1000 * self.seed + zlib.crc32(phase.encode()) % 1000
        return self.fit(
            step,
            state,
            Batches(images, self.settings["batch_size"], order),
            steps=epochs * self.steps_per_epoch,
            phase=phase,
            evaluate=lambda state: {"error": self.error(shown(state), "validation")},
            checkpoint_every=_CHECKPOINT_EPOCHS * self.steps_per_epoch,
        )


def kernels(params: Any) -> Any:
    """Which leaves of the networks here are kernels."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
