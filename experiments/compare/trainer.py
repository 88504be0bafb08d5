"""A network, its data and one budget of weights and epochs, for a method to spend."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import jax
import optax

import sparsejax
from experiments.common.classifier import ClassifierRun
from experiments.common.networks import accuracy
from sparsejax import inspection
from sparsejax.training import StepFunction, TrainState, init_state, make_step
from sparsejax.transforms import all_together, kept_weights, project_sparsity

_CHECKPOINT_EPOCHS = 25


class Trainer(ClassifierRun):
    """The training that all methods share: loss, data, order of images and initial weights.

    Its arguments are those of `ClassifierRun`; the settings are those of
    `experiments.compare.config.Config.settings`.
    """

    def __init__(self, *args: Any):
        super().__init__(*args)
        self.epochs: int = self.settings["epochs"]
        self.image_share: float = self.settings.get("image_share", 1.0)
        self.sparsity = float(1 - Decimal(self.settings["kept_percent"]) / 100)
        self.kept = int(kept_weights(inspection.report(self.initial).size, self.sparsity))

    def share(self, fraction: float) -> int:
        """``fraction`` of all epochs, at least one."""
        return max(1, round(fraction * self.epochs))

    def scaled(self, count: int) -> int:
        """``count``, which is for all images, where a run has the ``image_share`` of them.

        So as many steps lie between two renewals of a mask as with all images.
        """
        return max(1, round(count * self.image_share))

    def validation_accuracy(self, params: Any) -> jax.Array:
        """Accuracy in [0, 1] on the validation images, inside a step."""
        return accuracy(self.logits, params, self.dataset.validation)

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
        order = 1000 * self.seed + zlib.crc32(phase.encode()) % 1000
        steps = epochs * self.steps_per_epoch
        options = self.options(phase, shown)
        return self.fit(step, state, self.batches(order), steps=steps, **options)

    def options(self, phase: str, shown: Callable[[Any], Any]) -> dict[str, Any]:
        """Return what `fit` does beside the steps of a phase: it validates ``shown(state)`` and
        saves checkpoints.
        """
        return {
            "phase": phase,
            "evaluate": lambda state: {"error": self.error(shown(state), "validation")},
            "checkpoint_every": _CHECKPOINT_EPOCHS * self.steps_per_epoch,
        }
