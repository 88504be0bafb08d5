"""Hard-concrete gates of single weights under a bound on their density."""

from __future__ import annotations

from typing import Any

import jax
import optax

from experiments.common.networks import kernels
from experiments.compare.methods.method import Method, grid
from experiments.compare.trainer import Trainer
from sparsejax import gates
from sparsejax.constraints import (
    anneal_bound,
    constrained_step,
    density_violation,
    descent_ascent,
    nupi,
)
from sparsejax.training import init_state

_ANNEALED = 0.6
"""Share of the search in which the bound falls to the budget."""
_LOWEST, _HIGHEST = -12.0, 1.4
"""Range of log alpha; at the lowest a gate is open with probability 3e-5."""


def _search(trainer: Trainer, epochs: int) -> Any:
    settings = trainer.settings
    steps = epochs * trainer.steps_per_epoch
    kind = gates.hard_concrete(drop_rate=0.1)
    weights = kind.rescale(trainer.initial)
    phi = kind.init(jax.random.key(trainer.seed), weights)

    def loss(params: Any, batch: Any, key: jax.Array) -> Any:
        sampled = gates.apply(params["weights"], kind.sample(params["gates"], key))
        return trainer.loss(sampled, batch, key)

    def violation(params: Any, batch: Any, key: jax.Array) -> Any:
        del batch, key
        return density_violation(kind.active_probability(params["gates"]), 1 - trainer.sparsity)

    def median(params: Any) -> Any:
        return gates.apply(params["weights"], kind.median(params["gates"]))

    bound = optax.polynomial_schedule(trainer.sparsity, 0.0, 3, int(_ANNEALED * steps))
    cosine = optax.cosine_decay_schedule
    primal = optax.partition(
        {
            "weights": optax.adamw(
                cosine(settings["weight_rate"], steps),
                weight_decay=0.1,
                mask=kernels,
            ),
            "gates": optax.chain(
                optax.adam(cosine(settings["gate_rate"], steps)),
                gates.clip_params(_LOWEST, _HIGHEST),
            ),
        },
        {"weights": "weights", "gates": "gates"},
    )
    optimizer = descent_ascent(primal, optax.chain(anneal_bound(bound), nupi(0.1, 300.0)))
    key = jax.random.key(trainer.seed)
    state = init_state({"weights": weights, "gates": phi}, optimizer, key)
    step = constrained_step(loss, violation, optimizer)
    final = trainer.run(
        "search", step, state, epochs, lambda state: trainer.project(median(state.params))
    )
    return median(final.params)


METHOD = Method(
    "constrained L0", _search, grid(weight_rate=(7e-4, 2e-3), gate_rate=(3e-3, 1e-2)),
    search_share=0.8, shared={"rate": 0.1},
)  # fmt: skip
