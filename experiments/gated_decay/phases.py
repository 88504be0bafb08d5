"""What the ways of making a sparse network share: a folder for each phase of the training."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import jax
import optax

import sparsejax
from experiments.common.runner import Run
from experiments.gated_decay.config import PHASES
from experiments.gated_decay.tasks import Task
from sparsejax import compression, inspection
from sparsejax.training import StepFunction, TrainState, init_state, make_step

_COMPRESSION = ("compress_", "l_step_", "mu", "kappa")
_LATER = {
    "start": (*_COMPRESSION, "finetune_"),
    "prune": (*_COMPRESSION, "finetune_"),
    "compress": ("finetune_",),
    "finetune": (),
}
"""Prefixes of the settings that a phase does not depend on, so that later phases can be redone."""


class PhasesRun(Run):
    """One row of the table for one seed; its folder holds a folder for each phase.

    Args:
      row: the name of the row.
      folder: its own.
      make_task: makes the network and the data, when they are needed.
      settings: those of the row.
      seed: the seed of the parameters and of the order of the images.
      resume: whether to continue what is in the folder.
      source: the run whose first phases this one takes over.
    """

    def __init__(
        self,
        row: str,
        folder: Path,
        make_task: Callable[[int], Task],
        settings: dict[str, Any],
        seed: int,
        resume: bool,
        source: Self | None = None,
    ):
        super().__init__(row, folder, settings, seed, resume)
        self._make_task, self._source = make_task, source

    def headline(self, result: Mapping[str, Any]) -> str:
        """Accuracy and size."""
        prunings = f" after {result['prunings']} prunings" if "prunings" in result else ""
        return (
            f"test accuracy {100 - result['test_error']:.2f} %, {result['nonzeros']:,} parameters "
            f"left (sparsity {1 - result['density']:.2%}){prunings}"
        )

    @functools.cached_property
    def task(self) -> Task:
        """The network and its data."""
        return self._source.task if self._source else self._make_task(self.seed)

    @property
    def _taken_over(self) -> tuple[str, ...]:
        """The phases that are those of the source, if there is one."""
        return ("start", "prune")

    def metrics(self, phase: str = "") -> list[dict[str, float]]:
        """The rows of a phase, which may be one of the source."""
        if self._source and phase in self._taken_over:
            return self._source.metrics(phase)
        return super().metrics(phase)

    def described(self, params: Any, before: float) -> dict[str, Any]:
        """The fields of a result about the final parameters.

        Args:
          params: in their original shapes.
          before: their validation error before the fine-tuning.
        """
        settings, task = self.settings, self.task
        counts = inspection.report(params, everything)
        layers = [inspection.report(params[layer], everything) for layer in task.layers]
        phases = {phase: rows for phase in PHASES if (rows := self.metrics(phase))}
        model = "vgg16" if settings["row"] == "imagenet2012" else "lenet5"
        return {
            "model": model,
            "dataset": settings["row"],
            "name": f"{model}_{self.row}",
            "network": {"model": "imagenet_vgg16" if model == "vgg16" else model},
            "test_error": task.error(params, "test"),
            # The error of validation images that were trained on says nothing.
            "validation_error": before
            if settings["finetune_whole"]
            else task.error(params, "validation"),
            "parameters": counts.size,
            "nonzeros": counts.nonzeros,
            "density": counts.density,
            "layer_nonzeros": [layer.nonzeros for layer in layers],
            "layer_density": [layer.density for layer in layers],
            "live_units": inspection.live_units(params, task.layers),
            "epochs": {phase: rows[-1]["epoch"] for phase, rows in phases.items()},
            "bzip2_bytes": inspection.bzip2_bytes(params),
            "dense_bzip2_bytes": inspection.bzip2_bytes(task.initial),
            "seconds": sum(rows[-1]["seconds"] for rows in phases.values()),
        }

    def _compress(self, task: Task, params: Any) -> Any:
        """Learning-compression of the parameters to exactly kappa."""
        settings = self.settings
        optimizer = optax.chain(
            sparsejax.learning_compression(
                compression.l0_ball(settings["kappa"]),
                optax.exponential_decay(settings["mu"], 1, settings["mu_growth"]),
                settings["l_step_epochs"] * task.steps_per_epoch,
                where=everything,
            ),
            self._compression_optimizer(task),
        )

        def theta(state: TrainState) -> Any:
            return sparsejax.compressed_params(state.opt_state, state.params)

        step = make_step(task.loss, optimizer)
        return theta(self._phase("compress", task, step, optimizer, params, theta))

    def _compression_optimizer(self, task: Task) -> optax.GradientTransformation:
        del task
        return self._optimizer(self.settings["learning_rate"])

    def _finetune(self, task: Task, params: Any) -> Any:
        settings = self.settings
        task = task.with_validation() if settings["finetune_whole"] else task
        steps = settings["finetune_epochs"] * task.steps_per_epoch
        rate = optax.cosine_decay_schedule(settings["finetune_rate"], steps)
        mask = jax.tree.map(lambda leaf: leaf != 0, params)
        optimizer = optax.chain(
            self._optimizer(rate, settings["finetune_weight_decay"]), sparsejax.hold_zeros(mask)
        )
        step = make_step(self._finetune_loss(task), optimizer)
        return self._phase("finetune", task, step, optimizer, params).params

    def _finetune_loss(self, task: Task) -> Any:
        return task.loss

    @property
    def _search_loss(self) -> Any:
        """The loss until all is pruned."""
        return functools.partial(self.task.loss, augment=self.settings["prune_augmented"])

    def _optimizer(
        self, rate: optax.ScalarOrSchedule, weight_decay: float = 0.0
    ) -> optax.GradientTransformation:
        """SGD if it has a momentum, else Adam; the decay is decoupled."""
        momentum = self.settings["momentum"]
        return optax.chain(
            optax.trace(momentum) if momentum else optax.scale_by_adam(),
            optax.add_decayed_weights(weight_decay),
            optax.scale_by_learning_rate(rate),
        )

    def _phase(
        self,
        phase: str,
        task: Task,
        step: StepFunction[TrainState],
        optimizer: optax.GradientTransformation,
        params: Any,
        shown: Callable[[Any], Any] = lambda state: state.params,
    ) -> TrainState:
        """Train ``params`` in a phase; metrics are of the parameters that ``shown`` gives."""

        def evaluate(state: Any) -> dict[str, float]:
            left = inspection.report(shown(state), everything).nonzeros
            density = left / size(self.task.initial)
            return {"error": task.error(shown(state), "validation"), "density": density}

        state = init_state(params, optimizer, jax.random.key(self.seed))
        return self._fit_phase(phase, task, step, state, evaluate)

    def _fit_phase(
        self,
        phase: str,
        task: Task,
        step: StepFunction[TrainState],
        state: TrainState,
        evaluate: Callable[[Any], dict[str, float]],
        **options: Any,
    ) -> TrainState:
        later = _LATER[phase]
        relevant = {n: value for n, value in self.settings.items() if not n.startswith(later)}
        return self.fit(
            step,
            state,
            task.batches(self.seed),
            steps=self.settings[f"{phase}_epochs"] * task.steps_per_epoch,
            phase=phase,
            config=relevant,
            evaluate=evaluate,
            **options,
        )


def everything(path: Any, leaf: Any) -> bool:
    """Biases too, as in the published code."""
    del path, leaf
    return True


def size(params: Any) -> int:
    """The number of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
