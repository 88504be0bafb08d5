"""Learning-compression from a dense start, with an exact l0 constraint."""

from __future__ import annotations

from typing import Any

import optax

import sparsejax
from experiments.common.l_steps import l_step_rate
from experiments.common.networks import kernels
from experiments.compare.methods.method import Method, grid
from experiments.compare.trainer import Trainer
from sparsejax import compression
from sparsejax.training import TrainState

_L_STEPS = 40
_COOLDOWN = 12  # last L steps, in which the rate falls faster
_DENSE_SHARE = 0.2


def _search(trainer: Trainer, epochs: int) -> Any:
    settings = trainer.settings
    dense_epochs = trainer.share(_DENSE_SHARE)
    optimizer = trainer.sgd(0.1, dense_epochs)
    dense = trainer.descend("dense", trainer.initial, optimizer, dense_epochs).params
    epochs -= dense_epochs
    l_steps, cooldown = trainer.scaled(_L_STEPS), trainer.scaled(_COOLDOWN)
    steps = max(1, epochs * trainer.steps_per_epoch // l_steps)

    rate = l_step_rate(settings["rate"], 0.98, 0.8, l_steps - cooldown, steps, steps)

    def mu(l_step: Any) -> Any:
        return settings["mu"] * settings["mu_growth"] ** l_step

    def theta(state: TrainState) -> Any:
        return sparsejax.compressed_params(state.opt_state, state.params)

    optimizer = optax.chain(
        sparsejax.learning_compression(compression.l0_ball(trainer.kept), mu, steps),
        optax.add_decayed_weights(2 * settings["decay"], kernels),
        optax.sgd(rate, momentum=0.9, nesterov=True),
    )
    return theta(trainer.descend("compress", dense, optimizer, epochs, shown=theta))


_SHARED = {"mu_growth": 1.1}
L0 = Method(
    "learning-compression, l0", _search, grid(rate=(0.1, 0.3), mu=(9e-5, 3e-4)),
    shared=_SHARED | {"decay": 0.0},
)  # fmt: skip
L0_L2 = Method(
    "learning-compression, l0+l2", _search, grid(rate=(0.1, 0.3), decay=(5e-5, 1e-4)),
    shared=_SHARED | {"mu": 9e-5},
)  # fmt: skip
