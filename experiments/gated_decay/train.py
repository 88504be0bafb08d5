"""One run: a start, gated weight decay with pruning, compression to a count, fine-tuning."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import sparsejax
from experiments.common.runs import FolderRun
from experiments.gated_decay.config import PHASES
from experiments.gated_decay.tasks import Task
from sparsejax import compression, inspection
from sparsejax.training import (
    Callback,
    Checkpoints,
    MetricLog,
    ProgressBar,
    StopWhen,
    TrainState,
    fit,
    init_run_dir,
    init_state,
    make_step,
    read_metrics,
    report,
    write_json,
)
from sparsejax.transforms import exact_gated_decay

_COMPRESSION = ("compress_", "l_step_", "mu", "kappa")
_LATER = {
    "start": (*_COMPRESSION, "finetune_"),
    "prune": (*_COMPRESSION, "finetune_"),
    "compress": ("finetune_",),
}
"""Prefixes of the settings that a phase does not depend on."""


class Run(FolderRun):
    """One row of the table for one seed; in its folder a folder for each phase.

    Args:
      folder: its own.
      make_task: makes the network and the data, once they are needed.
      settings: of the row.
      seed: of the parameters and of the order of the images.
      resume: whether to continue what is in the folder.
      pruned: the run whose pruned network this one takes over instead of pruning itself.
    """

    def __init__(
        self,
        folder: Path,
        make_task: Callable[[], Task],
        settings: dict[str, Any],
        seed: int,
        resume: bool,
        pruned: Run | None = None,
    ):
        super().__init__(folder, settings, seed, resume)
        self._make_task, self._source = make_task, pruned
        self._task: Task | None = None
        self._state: Any = None  # pruned
        # Raises where an argument is out of its range, before a step is taken.
        self._pruner = sparsejax.prune_when_accurate(
            settings["fraction"], settings["lower_bound"], _everything, settings["at_least"]
        )

    @property
    def title(self) -> str:
        """For the screen."""
        left = self.settings["kappa"] or self.settings["at_least"]
        return f"{self.settings['row']}{f' to {left:,}' if left else ''} seed {self.seed}"

    @property
    def task(self) -> Task:
        """The network and its data."""
        if self._source:
            return self._source.task
        if self._task is None:
            self._task = self._make_task()
        return self._task

    def metrics(self, phase: str) -> list[dict[str, float]]:
        """A row for each report of a phase."""
        run = self._source if self._source and phase in ("start", "prune") else self
        return read_metrics(run.folder / phase)

    def network(self) -> dict[str, np.ndarray]:
        """The parameters it ended with, by path."""
        with np.load(self.folder / "network.npz") as file:
            return {name: file[name] for name in file.files}

    def train(self) -> dict[str, Any]:
        """Run to the end and return the result."""
        pruned = self.pruned()
        small = self.task.smaller(pruned.params)
        params = small.params
        if self.settings["kappa"]:
            params = self._compress(small.task, params)
        before = small.task.error(params, "validation")
        params = self._finetune(small.task, params)
        return self._finish(small.restore(params), pruned, before)

    def pruned(self) -> TrainState:
        """The state after the pruning; trained for if it is not there yet."""
        if self._source:
            return self._source.pruned()
        if self._state is None:
            params = self.task.initial
            if self.settings["start_epochs"]:
                params = self._start(params)
            self._state = self._prune(params)
        return self._state

    def neglected_share(self) -> float:
        """How large the second-order term is that the update leaves out, right after the pruning:
        its norm over that of the decay which is applied.
        """
        task, params, decay = self.task, self.pruned().params, self.settings["decay"]

        @jax.jit
        def share(params):
            gradient = task.gradient(params)
            cheap = sparsejax.gated_weight_decay(decay, _everything)
            applied, _ = cheap.update(gradient, cheap.init(params), params)
            whole = exact_gated_decay(task.gradient, params, decay, _everything)
            difference = lambda a, b: jax.tree.map(jnp.subtract, a, b)  # noqa: E731
            norm = optax.tree.norm
            return norm(difference(whole, applied)) / norm(difference(applied, gradient))

        return float(share(params))

    @property
    def _search_loss(self) -> Any:
        """The loss until all is pruned."""
        return functools.partial(self.task.loss, augment=self.settings["prune_augmented"])

    def _start(self, params: Any) -> Any:
        optimizer = self._optimizer(self.settings["learning_rate"])
        state = init_state(params, optimizer, jax.random.key(self.seed))
        return self._fit("start", self.task, make_step(self._search_loss, optimizer), state).params

    def _prune(self, params: Any) -> Any:
        settings = self.settings
        every = settings["eval_interval"]
        decay = optax.exponential_decay(settings["decay"], every, settings["decay_rate"])
        pruning = self._pruner.init(params)
        optimizer = optax.chain(
            sparsejax.gated_weight_decay(decay, _everything),
            self._optimizer(settings["learning_rate"]),
            sparsejax.hold_zeros(pruning.mask),
        )
        how = self.task.pruning(make_step(self._search_loss, optimizer), self._pruner, every)
        start = init_state(params, optimizer, jax.random.key(self.seed))

        def ended(state: Any) -> bool:
            """Whether all is pruned that was to be, or the accuracy is on a plateau."""
            if int(state.pruning.remaining) <= settings["at_least"]:
                return True
            return 0 < settings["patience"] <= int(state.pruning.evaluations_since_pruning)

        def assessed(state: Any) -> dict[str, float]:
            remaining = int(state.pruning.remaining)
            return {
                "error": how.validation_error(state),
                "density": remaining / _size(state.params),
                "prunings": int(state.pruning.prunings),
            }

        return self._fit(
            "prune",
            self.task,
            how.step,
            start._replace(pruning=pruning),
            assessed,
            StopWhen(ended, how.stop_every),
            how.callbacks,
            how.report_every,
        )

    def _compress(self, task: Task, params: Any) -> Any:
        """Learning-compression of the pruned parameters to exactly kappa."""
        settings = self.settings
        steps = settings["l_step_epochs"] * task.steps_per_epoch
        optimizer = optax.chain(
            sparsejax.learning_compression(
                compression.l0_ball(settings["kappa"]),
                optax.exponential_decay(settings["mu"], 1, settings["mu_growth"]),
                steps,
                where=_everything,
            ),
            self._optimizer(settings["learning_rate"]),
        )
        state = init_state(params, optimizer, jax.random.key(self.seed))
        step = make_step(task.loss, optimizer)

        def assessed(state: Any) -> dict[str, float]:
            return self._assessed(task, sparsejax.compressed_params(state.opt_state, state.params))

        state = self._fit("compress", task, step, state, assessed)
        return sparsejax.compressed_params(state.opt_state, state.params)

    def _finetune(self, task: Task, params: Any) -> Any:
        settings = self.settings
        task = task.with_validation() if settings["finetune_whole"] else task
        steps = settings["finetune_epochs"] * task.steps_per_epoch
        rate = optax.cosine_decay_schedule(settings["finetune_rate"], steps)
        mask = jax.tree.map(lambda leaf: leaf != 0, params)
        optimizer = optax.chain(
            self._optimizer(rate, settings["finetune_weight_decay"]), sparsejax.hold_zeros(mask)
        )
        state = init_state(params, optimizer, jax.random.key(self.seed))
        return self._fit("finetune", task, make_step(task.loss, optimizer), state).params

    def _optimizer(
        self, rate: optax.ScalarOrSchedule, weight_decay: float = 0.0
    ) -> optax.GradientTransformation:
        """SGD where it has a momentum, else Adam; the decay is decoupled."""
        momentum = self.settings["momentum"]
        return optax.chain(
            optax.trace(momentum) if momentum else optax.scale_by_adam(),
            optax.add_decayed_weights(weight_decay),
            optax.scale_by_learning_rate(rate),
        )

    def _fit(
        self,
        phase: str,
        task: Task,
        step: Any,
        state: Any,
        evaluate: Callable[[Any], dict[str, float]] | None = None,
        stop: StopWhen | None = None,
        callbacks: Sequence[Callback] = (),
        report_every: int | None = None,
    ) -> Any:
        steps = self.settings[f"{phase}_epochs"] * task.steps_per_epoch
        folder = init_run_dir(self.folder / phase, _relevant(self.settings, phase), self.resumes)
        reports = report(
            MetricLog(folder),
            ProgressBar(steps, f"{self.title}, {phase}"),
            evaluate=evaluate or (lambda state: self._assessed(task, state.params)),
            every=report_every,
        )
        return fit(
            step,
            state,
            task.batches(self.seed),
            steps=steps,
            callbacks=[*callbacks, reports],
            checkpoints=Checkpoints(folder / "checkpoints"),
            stop=stop,
        )

    def _assessed(self, task: Task, params: Any) -> dict[str, float]:
        left = inspection.report(params, _everything).nonzeros
        density = left / _size(self.task.initial)
        return {"error": task.error(params, "validation"), "density": density}

    def _finish(self, params: Any, pruned: Any, before: float) -> dict[str, Any]:
        """The result; ``before`` is the validation error at the beginning of the fine-tuning."""
        task, whole = self.task, self.settings["finetune_whole"]
        counts = inspection.report(params, _everything)
        layers = [inspection.report(params[layer], _everything) for layer in task.layers]
        found = [self.metrics(phase) for phase in PHASES]
        result = {
            "settings": self.settings,
            "test_error": task.error(params, "test"),
            # After training on the validation images their error says nothing any more.
            "validation_error": before if whole else task.error(params, "validation"),
            "pruned_validation_error": task.error(pruned.params, "validation"),
            "pruned_nonzeros": int(pruned.pruning.remaining),
            "parameters": counts.size,
            "nonzeros": counts.nonzeros,
            "density": counts.density,
            "layer_nonzeros": [layer.nonzeros for layer in layers],
            "layer_density": [layer.density for layer in layers],
            "live_units": inspection.live_units(params, task.layers),
            "epochs": {p: r[-1]["epoch"] for p, r in zip(PHASES, found, strict=True) if r},
            "prunings": int(pruned.pruning.prunings),
            "bzip2_bytes": inspection.bzip2_bytes(params),
            "dense_bzip2_bytes": inspection.bzip2_bytes(task.initial),
            "seconds": sum(rows[-1]["seconds"] for rows in found if rows),
            "finished": time.strftime("%Y-%m-%d", time.gmtime()),
        }
        flat: Any = {
            f"{layer}/{name}": np.asarray(params[layer][name][...])
            for layer in task.layers
            for name in ("kernel", "bias")
        }
        np.savez(self.folder / "network.npz", **flat)
        write_json(self.folder / "result.json", result)
        return result


def _relevant(settings: dict[str, Any], phase: str) -> dict[str, Any]:
    """What a phase depends on: without what only later ones do, so that these can be made anew."""
    later = _LATER.get(phase, ())
    return {name: value for name, value in settings.items() if not name.startswith(later)}


def _everything(path: Any, leaf: Any) -> bool:
    """Biases too, as in the published code."""
    del path, leaf
    return True


def _size(params: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))
