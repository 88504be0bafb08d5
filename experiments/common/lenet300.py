"""LeNet300 on MNIST: its training, and its compression by learning-compression."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import sparsejax
from experiments.common.classifier import ClassifierRun
from experiments.common.l_steps import l_step_rate
from experiments.common.networks import kernels
from experiments.common.runner import Config as CommonConfig
from experiments.data import Dataset
from sparsejax import inspection
from sparsejax.compression import Compression
from sparsejax.models import LENET300_LAYERS, LeNet300
from sparsejax.training import TrainState, init_state, make_step


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(CommonConfig):
    """The flags of every compression of LeNet300."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """One run of every row for each."""
    decay: float | None = None
    """lambda of an l2 penalty, of the rows that have one; default the row's."""
    multipliers: bool = True
    """Augmented Lagrangian, or (--no-multipliers) the quadratic penalty."""
    mu: float | None = None
    """The penalty's weight in the first L step; default the row's, or the preset's."""
    mu_growth: float | None = None
    """Growth of mu from one L step to the next; default the row's, or the preset's."""
    learning_rate: float | None = None
    """Learning rate of SGD with Nesterov momentum 0.9 in the first L step; default the row's. The
    references keep theirs."""
    learning_rate_decay: float = 0.98
    """Decay of the learning rate from one L step to the next."""
    cooldown: float = 0.8
    """Further decay of the learning rate in each of the last L steps (the preset says how many)."""
    batch_size: int = 256
    """Images a step."""
    validation_fold: int = 0
    """Which of the disjoint sets of 5,000 images is held out of the training set."""

    def l_step_flags(self) -> dict[str, Any]:
        """The settings of L steps that only a flag changes."""
        names = ("multipliers", "learning_rate_decay", "cooldown")
        return {name: getattr(self, name) for name in names}


class LeNet300Run(ClassifierRun):
    """A dense LeNet300, or the compression of one.

    The settings are ``activation``, ``learning_rate`` and ``batch_size``; of a reference
    ``reference_epochs``; of a compression ``l_steps``, ``epochs_per_l_step``,
    ``first_l_step_epochs``, ``cooldown_l_steps``, ``checkpoint_epochs``, ``mu``, ``mu_growth``,
    ``learning_rate_decay``, ``cooldown``, ``multipliers`` and what `c_step` reads; ``decay`` with
    ``formulation`` "l_step" adds an l2 penalty to the L step.

    Args:
      row: the row of the report that it belongs to.
      folder: its own.
      settings: what defines it, as JSON values.
      seed: the seed of the parameters and of the order of the images.
      resume: whether to continue what is in the folder.
      dataset: MNIST.
      reference: the run that trains the dense network; None for a reference.
    """

    def __init__(
        self,
        row: str,
        folder: Path,
        settings: Mapping[str, Any],
        seed: int,
        resume: bool,
        dataset: Dataset,
        reference: LeNet300Run | None = None,
    ):
        model = LeNet300(settings["activation"], rngs=nnx.Rngs(seed))
        super().__init__(row, folder, settings, seed, resume, dataset, model)
        self.reference = reference
        if reference:  # raises where a setting is out of its range, before a step is taken
            jax.eval_shape(self._compressor()[0].init, self.initial)

    def c_step(self) -> tuple[Compression, Any]:
        """The C step, and the ``where`` of the leaves that it compresses."""
        raise NotImplementedError

    def last_growth_of_mu(self) -> int:
        """The L step after which mu stays."""
        return int(self.settings["l_steps"])

    def fit_to_end(self) -> TrainState:
        """Train the reference, or compress it, to the last step."""
        return self._fit_reference() if self.reference is None else self._compress(self.reference)

    def _fit_reference(self) -> TrainState:
        steps = self.settings["reference_epochs"] * self.steps_per_epoch
        rate = optax.cosine_decay_schedule(self.settings["learning_rate"], steps)
        optimizer = optax.sgd(rate, momentum=0.9, nesterov=True)
        return self._fit(optimizer, self.initial, rate, steps, 1, 10, self._evaluate_dense)

    def params(self) -> Any:
        """The network that the run ended with, as parameters of the model."""
        leaves = map(jnp.asarray, jax.tree.leaves(self.network()))
        return jax.tree.unflatten(jax.tree.structure(self.initial), leaves)

    def _compress(self, reference: LeNet300Run) -> TrainState:
        settings = self.settings
        optimizer, rate = self._compressor()
        epochs = settings["first_l_step_epochs"]
        epochs += (settings["l_steps"] - 1) * settings["epochs_per_l_step"]
        return self._fit(
            optimizer, reference.params(), rate, epochs * self.steps_per_epoch,
            settings["epochs_per_l_step"], settings["checkpoint_epochs"], self._evaluate_l_step,
        )  # fmt: skip

    def _fit(
        self,
        optimizer: optax.GradientTransformation,
        params: Any,
        rate: optax.Schedule,
        steps: int,
        report_epochs: int,
        checkpoint_epochs: int,
        evaluate: Callable[[TrainState], dict[str, Any]],
    ) -> TrainState:
        return self.fit(
            make_step(self.loss, optimizer),
            init_state(params, optimizer, jax.random.key(self.seed)),
            self.batches(self.seed),
            steps=steps,
            evaluate=evaluate,
            report_every=report_epochs * self.steps_per_epoch,
            checkpoint_every=checkpoint_epochs * self.steps_per_epoch,
            learning_rate=rate,
        )

    def _compressor(self) -> tuple[optax.GradientTransformation, optax.Schedule]:
        settings = self.settings
        per_l_step = settings["epochs_per_l_step"] * self.steps_per_epoch
        first = settings["first_l_step_epochs"] * self.steps_per_epoch
        last_growth = self.last_growth_of_mu()
        rate = l_step_rate(
            settings["learning_rate"],
            settings["learning_rate_decay"],
            settings["cooldown"],
            settings["l_steps"] - settings["cooldown_l_steps"],
            first,
            per_l_step,
        )

        def mu(l_step: Any) -> Any:
            return settings["mu"] * settings["mu_growth"] ** jnp.minimum(l_step, last_growth)

        compression, where = self.c_step()
        transform = sparsejax.learning_compression(
            compression,
            mu_schedule=mu,
            steps_per_l_step=per_l_step,
            # The C step falls on the last update of the first L step.
            steps_in_first_l_step=first - 1,
            multipliers=settings["multipliers"],
            where=where,
        )
        chain = [transform, optax.sgd(rate, momentum=0.9, nesterov=True)]
        if settings.get("formulation") == "l_step":
            chain.insert(1, optax.add_decayed_weights(2 * settings["decay"], kernels))
        return optax.chain(*chain), rate

    def _evaluate_dense(self, state: TrainState) -> dict[str, float]:
        return {"error": self.error(state.params, "validation")}

    def _evaluate_l_step(self, state: TrainState) -> dict[str, float]:
        """Metrics of theta after an L step, and the error of the uncompressed network w."""
        theta = sparsejax.compressed_params(state.opt_state, state.params)
        live = inspection.live_units(theta, LENET300_LAYERS)
        gap = optax.tree.norm(jax.tree.map(jnp.subtract, state.params, theta))
        return {
            "error": self.error(theta, "validation"),
            "uncompressed_error": self._evaluate_dense(state)["error"],
            "density": inspection.report(theta).density,
            "distance": float(gap),
            "mu": float(state.opt_state[0].mu),
            **{f"live_{layer}": count for layer, count in enumerate(live)},
        }


def about(run: LeNet300Run) -> dict[str, Any]:
    """Fields of the result of a run that say what its network is."""
    return {
        "model": "lenet300",
        "dataset": "mnist",
        "name": f"lenet300_{run.row}",
        "network": {"model": "lenet300", "activation": run.settings["activation"]},
        "seconds": run.metrics()[-1]["seconds"],
    }
