"""Continuous sparsification: sigmoid gates that harden, in one round."""

from __future__ import annotations

from typing import Any

import jax

from experiments.compare.methods.method import Method, grid
from experiments.compare.trainer import Trainer
from sparsejax import gates, tickets

_BETA = 200.0


def _search(trainer: Trainer, epochs: int) -> Any:
    settings = trainer.settings
    initial = settings["initial"]
    method = tickets.continuous_sparsification(
        epochs * trainer.steps_per_epoch, initial, settings["penalty"], _BETA
    )
    optimizer = trainer.sgd(settings["rate"], epochs)
    key = jax.random.key(trainer.seed)
    state = tickets.init_search(method, trainer.initial, optimizer, key)
    step = tickets.search_step(method, trainer.loss, optimizer)
    # Gates that have just closed are small and not zero: they fill up a budget that is not used.
    kind = gates.sigmoid(initial, beta=_BETA)

    def gated(params: Any) -> Any:
        return gates.apply(params["weights"], kind.sample(params["gates"], key))

    final = trainer.run(
        "search", step, state, epochs, lambda state: trainer.project(gated(state.params))
    )
    return gated(final.params)


METHOD = Method(
    "continuous sparsification", _search, grid(initial=(-0.3, -0.1), penalty=(1e-8, 3e-5)),
    search_share=0.6, shared={"rate": 0.1},
)  # fmt: skip
