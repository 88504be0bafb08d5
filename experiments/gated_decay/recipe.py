"""Gated weight decay with pruning, compression to an exact count, and fine-tuning."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import sparsejax
from experiments.common.l_steps import l_step_rate
from experiments.common.networks import kernels
from experiments.common.runner import Recipe
from experiments.data import DataError, load
from experiments.gated_decay import report
from experiments.gated_decay.config import Config, Row
from experiments.gated_decay.phases import PhasesRun, everything, size
from experiments.gated_decay.tasks import LeNet5Task, Task, VGG16Task
from sparsejax.models import LeNet5
from sparsejax.training import StopWhen, TrainState, init_state, make_step
from sparsejax.transforms import exact_gated_decay

_MOMENTUM = 0.9


class GatedDecayRun(PhasesRun):
    """Gated weight decay, then compression and fine-tuning.

    ``source`` is a run whose pruned network this one compresses instead of pruning itself.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        settings = self.settings
        # Raises where an argument is out of its range, before a step is taken.
        self._pruner = sparsejax.prune_when_accurate(
            settings["fraction"], settings["lower_bound"], everything, settings["min_weights"]
        )

    @functools.cached_property
    def pruned(self) -> TrainState:
        """The state after the pruning, which is trained for if it is not there yet."""
        if self._source:
            return self._source.pruned
        params = self.task.initial
        return self._prune(self._start(params) if self.settings["start_epochs"] else params)

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

    def _neglected_share(self, params: Any) -> float:
        """Norm of the second-order term that the update neglects over that of the applied decay."""
        task, decay = self.task, self.settings["decay"]

        @jax.jit
        def share(params: Any, batch: Any) -> jax.Array:
            gradient = functools.partial(task.gradient, batch=batch)
            grads = gradient(params)
            cheap = sparsejax.gated_weight_decay(decay, everything)
            applied, _ = cheap.update(grads, cheap.init(params), params)
            whole = exact_gated_decay(gradient, params, decay, everything)
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
            sparsejax.gated_weight_decay(decay, everything),
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
                "density": int(state.pruning.remaining) / size(state.params),
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


class FromDenseRun(PhasesRun):
    """Learning-compression of the dense network with weight decay, without gated weight decay.

    The last L steps have a falling rate. ``source`` is a run with the same dense network, whose
    compressed network is taken over, too, where it has as many parameters.
    """

    _source: FromDenseRun | None

    def train(self) -> tuple[dict[str, Any], Any]:
        """Train the dense network, compress it, and fine-tune what is left."""
        small, params, restore = self.task.smaller(self.compressed)
        before = small.error(params, "validation")
        params = restore(self._finetune(small, params))
        return self.described(params, before), params

    @functools.cached_property
    def compressed(self) -> Any:
        """The parameters after the learning-compression."""
        if self._source and "compress" in self._taken_over:
            return self._source.compressed
        return self._compress(self.task, self.dense)

    @property
    def _taken_over(self) -> tuple[str, ...]:
        alike = self._source and self._source.settings["kappa"] == self.settings["kappa"]
        return (*super()._taken_over, "compress") if alike else super()._taken_over

    @functools.cached_property
    def dense(self) -> Any:
        """The parameters of the dense network, which are trained if they are not there yet."""
        if self._source:
            return self._source.dense
        steps = self.settings["start_epochs"] * self.task.steps_per_epoch
        rate = optax.cosine_decay_schedule(self.settings["learning_rate"], steps)
        optimizer = optax.sgd(rate, momentum=_MOMENTUM, nesterov=True)
        step = make_step(self._search_loss, optimizer)
        return self._phase("start", self.task, step, optimizer, self.task.initial).params

    def _finetune_loss(self, task: Task) -> Any:
        if not (weight := self.settings.get("finetune_distillation")):
            return task.loss
        assert isinstance(self.task, LeNet5Task)
        assert isinstance(task, LeNet5Task)
        return task.loss_towards(self.task, self.dense, weight)

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
    for kappa in config.dense_kappa or ():
        name, its_folder = f"{row}_dense_{kappa}", folder / f"dense_{kappa}"
        settings = config.dense_settings(row, kappa)
        run = FromDenseRun(name, its_folder, make_task, settings, seed, config.resume, first)
        first = first or run
        yield run
        if weight := config.finetune_distillation:
            name, its_folder = f"{name}_distilled", its_folder.with_name(f"dense_{kappa}_distilled")
            settings = {**settings, "finetune_distillation": weight}
            yield FromDenseRun(name, its_folder, make_task, settings, seed, config.resume, run)
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
    if settings["batch_size"] > (most := len(dataset.train.labels)):
        raise ValueError(
            f"--batch-size must be at most {most}, the training images of {row}; got "
            f"{settings['batch_size']}"
        )
    return lambda seed: LeNet5Task(dataset, settings, LeNet5(rngs=nnx.Rngs(seed)))


RECIPE = Recipe(Config, plan, report.rows, report.parts, report.figures)
