"""Gated weight decay with pruning, compression to an exact count, and fine-tuning."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import sparsejax
from experiments.common.l_steps import l_step_rate
from experiments.common.networks import kernels
from experiments.common.runner import Recipe, Run
from experiments.data import DataError, load
from experiments.gated_decay import report
from experiments.gated_decay.config import PHASES, Config, Row
from experiments.gated_decay.tasks import LeNet5Task, Task, VGG16Task
from sparsejax import compression, inspection
from sparsejax.models import LeNet5
from sparsejax.training import StepFunction, StopWhen, TrainState, init_state, make_step
from sparsejax.transforms import exact_gated_decay

_MOMENTUM = 0.9
_COMPRESSION = ("compress_", "l_step_", "mu", "kappa")
_LATER = {
    "start": (*_COMPRESSION, "finetune_"),
    "prune": (*_COMPRESSION, "finetune_"),
    "compress": ("finetune_",),
    "finetune": (),
}
"""Prefixes of the settings that a phase does not depend on, so that later phases can be redone."""


class GatedDecayRun(Run):
    """One row of the table for one seed; its folder holds a folder for each phase.

    Args:
      row: the name of the row.
      folder: its own.
      make_task: makes the network and the data, when they are needed.
      settings: those of the row.
      seed: the seed of the parameters and of the order of the images.
      resume: whether to continue what is in the folder.
      source: the run whose pruned network this one compresses instead of pruning itself.
    """

    def __init__(
        self,
        row: str,
        folder: Path,
        make_task: Callable[[int], Task],
        settings: dict[str, Any],
        seed: int,
        resume: bool,
        source: GatedDecayRun | None = None,
    ):
        super().__init__(row, folder, settings, seed, resume)
        self._make_task, self._source = make_task, source
        # Raises where an argument is out of its range, before a step is taken.
        self._pruner = sparsejax.prune_when_accurate(
            settings["fraction"], settings["lower_bound"], _everything, settings["min_weights"]
        )

    @property
    def title(self) -> str:
        """Its dataset, the number of parameters, and its seed."""
        left = self.settings["kappa"] or self.settings["min_weights"]
        return f"{self.settings['row']}{f' to {left:,}' if left else ''} seed {self.seed}"

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

    @functools.cached_property
    def pruned(self) -> TrainState:
        """The state after the pruning, which is trained for if it is not there yet."""
        if self._source:
            return self._source.pruned
        params = self.task.initial
        return self._prune(self._start(params) if self.settings["start_epochs"] else params)

    def metrics(self, phase: str = "") -> list[dict[str, float]]:
        """The rows of a phase, which may be one of the source."""
        if self._source and phase in ("start", "prune"):
            return self._source.metrics(phase)
        return super().metrics(phase)

    def train(self) -> tuple[dict[str, Any], Any]:
        """Go through all phases; the network has its original shapes."""
        pruned, settings = self.pruned, self.settings
        small, params, restore = self.task.smaller(pruned.params)
        if settings["kappa"]:
            params = self._compress(small, params)
        before = small.error(params, "validation")
        params = restore(self._finetune(small, params))
        result = self.described(params, before) | {
            "pruned_validation_error": self.task.error(pruned.params, "validation"),
            "pruned_nonzeros": int(pruned.pruning.remaining),
            "prunings": int(pruned.pruning.prunings),
            "neglected_share": None if self._source else self._neglected_share(pruned.params),
        }
        return result, params

    def described(self, params: Any, before: float) -> dict[str, Any]:
        """The fields of a result about the final parameters.

        Args:
          params: in their original shapes.
          before: their validation error before the fine-tuning.
        """
        settings, task = self.settings, self.task
        counts = inspection.report(params, _everything)
        layers = [inspection.report(params[layer], _everything) for layer in task.layers]
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

    def _neglected_share(self, params: Any) -> float:
        """Norm of the second-order term that the update neglects over that of the applied decay."""
        task, decay = self.task, self.settings["decay"]

        @jax.jit
        def share(params: Any, batch: Any) -> jax.Array:
            gradient = functools.partial(task.gradient, batch=batch)
            grads = gradient(params)
            cheap = sparsejax.gated_weight_decay(decay, _everything)
            applied, _ = cheap.update(grads, cheap.init(params), params)
            whole = exact_gated_decay(gradient, params, decay, _everything)
            neglected = jax.tree.map(jnp.subtract, whole, applied)
            decayed = jax.tree.map(jnp.subtract, applied, grads)
            return optax.tree.norm(neglected) / optax.tree.norm(decayed)

        return float(share(params, task.examples()))

    def _start(self, params: Any) -> Any:
        optimizer = self._optimizer(self.settings["learning_rate"])
        step = make_step(self._search_loss, optimizer)
        return self._phase("start", self.task, step, optimizer, params).params

    def _prune(self, params: Any) -> TrainState:
        settings, every = self.settings, self.settings["eval_interval"]
        decay = optax.exponential_decay(settings["decay"], every, settings["decay_rate"])
        pruning = self._pruner.init(params)
        optimizer = optax.chain(
            sparsejax.gated_weight_decay(decay, _everything),
            self._optimizer(settings["learning_rate"]),
            sparsejax.hold_zeros(pruning.mask),
        )
        how = self.task.pruning(make_step(self._search_loss, optimizer), self._pruner, every)

        def ended(state: Any) -> bool:
            """Whether the target is reached, or the accuracy is on a plateau."""
            if int(state.pruning.remaining) <= settings["min_weights"]:
                return True
            since = int(state.pruning.evaluations_since_pruning)
            return bool(0 < settings["patience"] <= since)

        def evaluate(state: Any) -> dict[str, float]:
            return {
                "error": how.validation_error(state),
                "density": int(state.pruning.remaining) / _size(state.params),
                "prunings": int(state.pruning.prunings),
            }

        state = init_state(params, optimizer, jax.random.key(self.seed))._replace(pruning=pruning)
        return self._fit_phase(
            "prune",
            self.task,
            how.step,
            state,
            evaluate,
            stop=StopWhen(ended, how.stop_every),
            **how.options,
        )

    def _compress(self, task: Task, params: Any) -> Any:
        """Learning-compression of the parameters to exactly kappa."""
        settings = self.settings
        optimizer = optax.chain(
            sparsejax.learning_compression(
                compression.l0_ball(settings["kappa"]),
                optax.exponential_decay(settings["mu"], 1, settings["mu_growth"]),
                settings["l_step_epochs"] * task.steps_per_epoch,
                where=_everything,
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
        step = make_step(task.loss, optimizer)
        return self._phase("finetune", task, step, optimizer, params).params

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
            left = inspection.report(shown(state), _everything).nonzeros
            density = left / _size(self.task.initial)
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


class FromDenseRun(GatedDecayRun):
    """Learning-compression of the dense network with weight decay, without gated weight decay.

    The last L steps have a falling rate. ``source`` is a run with the same dense network.
    """

    def train(self) -> tuple[dict[str, Any], Any]:
        """Train the dense network, compress it, and fine-tune what is left."""
        small, params, restore = self.task.smaller(self._compress(self.task, self.dense))
        before = small.error(params, "validation")
        params = restore(self._finetune(small, params))
        return self.described(params, before), params

    @functools.cached_property
    def dense(self) -> Any:
        """The parameters of the dense network, which are trained if they are not there yet."""
        if isinstance(self._source, FromDenseRun):
            return self._source.dense
        steps = self.settings["start_epochs"] * self.task.steps_per_epoch
        rate = optax.cosine_decay_schedule(self.settings["learning_rate"], steps)
        optimizer = optax.sgd(rate, momentum=_MOMENTUM, nesterov=True)
        step = make_step(self._search_loss, optimizer)
        return self._phase("start", self.task, step, optimizer, self.task.initial).params

    def _compression_optimizer(self, task: Task) -> optax.GradientTransformation:
        settings = self.settings
        steps = settings["l_step_epochs"] * task.steps_per_epoch
        l_steps = settings["compress_epochs"] // settings["l_step_epochs"]
        rate = l_step_rate(settings["compress_rate"], 0.98, 0.8, l_steps - 12, steps, steps)
        return optax.chain(
            optax.add_decayed_weights(2 * settings["compress_decay"], kernels),
            optax.sgd(rate, momentum=_MOMENTUM, nesterov=True),
        )


def plan(config: Config) -> Iterator[GatedDecayRun]:
    """Yield, by seed and dataset, the pruned network, its compressions, and further targets."""
    make_tasks = {row: _task_maker(config, row) for row in config.rows()}
    planned = [
        [run for row in make_tasks for run in _runs(config, row, make_tasks[row], seed)]
        for seed in config.seeds
    ]
    for runs in planned:
        yield from runs


def _runs(
    config: Config, row: Row, make_task: Callable[[int], Task], seed: int
) -> Iterator[GatedDecayRun]:
    folder = config.folder / row / f"seed_{seed}"

    def new(
        name: str, folder: Path, settings: dict[str, Any], source: GatedDecayRun | None = None
    ) -> GatedDecayRun:
        return GatedDecayRun(name, folder, make_task, settings, seed, config.resume, source)

    first: FromDenseRun | None = None
    for kappa in config.dense_kappa:
        name, its_folder = f"{row}_dense_{kappa}", folder / f"dense_{kappa}"
        settings = config.dense_settings(row, kappa)
        run = FromDenseRun(name, its_folder, make_task, settings, seed, config.resume, first)
        first = first or run
        yield run
    if config.dense_kappa:
        return
    pruned = new(row, folder, config.settings(row))
    yield pruned
    for kappa in config.kappas(row):
        yield new(f"{row}_{kappa}", folder / f"kappa_{kappa}", config.settings(row, kappa), pruned)
    for count in config.extra_targets:
        settings = config.settings(row, min_weights=count)
        yield new(f"{row}_{count}", folder / f"min_weights_{count}", settings)


def _task_maker(config: Config, row: Row) -> Callable[[int], Task]:
    """``seed -> Task``."""
    settings = config.settings(row)
    if row == "imagenet2012":
        if config.data_dir is None:
            raise DataError("--data-dir must name the folder in which TFDS has prepared ImageNet")
        return functools.partial(VGG16Task, config.data_dir, settings)
    dataset = load(row, config.data_dir)
    return lambda seed: LeNet5Task(dataset, settings, LeNet5(rngs=nnx.Rngs(seed)))


def _everything(path: Any, leaf: Any) -> bool:
    """Biases too, as in the published code."""
    del path, leaf
    return True


def _size(params: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))


RECIPE = Recipe(Config, plan, report.rows, report.parts, report.figures)
