"""Methods that are one transformation around the optimizer: gradual and dynamic sparse training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from experiments.compare.methods.method import Method, grid
from experiments.compare.trainer import Trainer
from sparsejax import transforms
from sparsejax.training import init_state, make_step
from sparsejax.transforms import Distribution, SparseMethod

_RENEWALS = 100
"""Renewals of a mask over the whole training."""


def _trained_with(method: Callable[[Trainer, int], SparseMethod]) -> Callable[[Trainer, int], Any]:
    """The search that trains by ``sparsify`` with ``method(trainer, steps)``."""

    def search(trainer: Trainer, epochs: int) -> Any:
        steps = epochs * trainer.steps_per_epoch
        optimizer = transforms.sparsify(
            trainer.sgd(trainer.settings["rate"], epochs), method(trainer, steps)
        )
        state = init_state(trainer.initial, optimizer, jax.random.key(trainer.seed))
        # Methods that start sparse have chosen their masks by now.
        state = state._replace(params=transforms.masked_params(state.opt_state, state.params))
        return trainer.run("search", make_step(trainer.loss, optimizer), state, epochs).params

    return search


def _distribution(trainer: Trainer) -> Distribution:
    ways = {"global": transforms.all_together(), "erk": transforms.erdos_renyi()}
    return ways[trainer.settings["distribution"]]


def _gradual(make: Callable[..., SparseMethod]) -> Callable[[Trainer, int], SparseMethod]:
    """Pruning along a cubic from a tenth of the steps to seven tenths."""

    def method(trainer: Trainer, steps: int) -> SparseMethod:
        every = max(1, steps // trainer.scaled(_RENEWALS))
        schedule = transforms.polynomial(steps // 10, steps * 7 // 10, every)
        return make(trainer.sparsity, schedule, _distribution(trainer))

    return method


def _dynamic(make: Callable[..., SparseMethod]) -> Callable[[Trainer, int], SparseMethod]:
    """Exchanging weights until three quarters of the steps are over."""

    def method(trainer: Trainer, steps: int) -> SparseMethod:
        return make(
            trainer.sparsity,
            steps * 3 // 4,
            max(1, steps // trainer.scaled(4 * _RENEWALS)),
            trainer.settings["drop_fraction"],
            distribution=transforms.erdos_renyi(),
            key=trainer.seed,
        )

    return method


def _static(trainer: Trainer, steps: int) -> SparseMethod:
    del steps
    return transforms.static_sparse(trainer.sparsity, transforms.erdos_renyi(), key=trainer.seed)


def _alternating(trainer: Trainer, steps: int) -> SparseMethod:
    length = max(1, round(trainer.settings["phase_share"] * steps / trainer.image_share))
    return transforms.ac_dc(trainer.sparsity, steps * 3 // 4, length, length, warmup=steps // 10)


SPARSE_START = {"warmup_share": 0.05}
"""Without a warm-up, a network that starts sparse may lose all units of a layer in the first epoch.
RigL did, at a rate of 0.3 with 2 % of the weights; with a warm-up it lost them later."""

_RATES = (0.1, 0.3)
_WAYS = grid(rate=_RATES, distribution=("global", "erk"))
_DROPS = grid(rate=(0.1, 0.2), drop_fraction=(0.3, 0.5))

MAGNITUDE = Method(
    "gradual magnitude pruning", _trained_with(_gradual(transforms.magnitude_pruning)), _WAYS
)
SALIENCY = Method(
    "gradual saliency pruning", _trained_with(_gradual(transforms.saliency_pruning)), _WAYS
)
RIGL = Method(
    "RigL",
    _trained_with(_dynamic(transforms.rigl)),
    _DROPS,
    shared=SPARSE_START,
    always_sparse=True,
)
SET = Method(
    "SET", _trained_with(_dynamic(transforms.set)), _DROPS, shared=SPARSE_START, always_sparse=True
)
STATIC = Method(
    "static random mask", _trained_with(_static), grid(rate=(0.05, 0.1, 0.2, 0.4)),
    shared=SPARSE_START, always_sparse=True,
)  # fmt: skip
AC_DC = Method(
    "AC/DC", _trained_with(_alternating), grid(rate=(0.05, 0.1), phase_share=(0.05, 0.1))
)
