"""Gated weight decay: weights that the loss does not feel decay and are pruned while it holds."""

from __future__ import annotations

from typing import Any

import jax
import optax

import sparsejax
from experiments.compare.methods.method import Method, grid
from experiments.compare.trainer import Trainer
from sparsejax.training import init_state, make_step
from sparsejax.transforms import pruning_step

_DENSE_SHARE = 0.2
_ASSESSMENTS = 200
"""Evaluations that may prune, if the search had all epochs."""
_FRACTION = 0.1
"""Share of the weights left that one of them prunes."""
_DECAY_RATE = 0.9
"""Factor of lambda from one evaluation to the next, until weights are pruned again."""


def _search(trainer: Trainer, epochs: int) -> Any:
    settings = trainer.settings
    adam = optax.adam(settings["adam_rate"])
    dense_epochs = trainer.share(_DENSE_SHARE)
    dense = trainer.descend("dense", trainer.initial, adam, dense_epochs).params
    accuracy = 1 - trainer.error(dense, "validation") / 100
    every = max(1, trainer.epochs * trainer.steps_per_epoch // trainer.scaled(_ASSESSMENTS))
    pruner = sparsejax.prune_when_accurate(
        _FRACTION, accuracy - settings["tolerance"], min_weights=trainer.kept
    )
    pruning = pruner.init(dense)
    optimizer = optax.chain(
        sparsejax.gated_weight_decay(
            optax.exponential_decay(settings["decay"], every, _DECAY_RATE)
        ),
        adam,
        sparsejax.hold_zeros(pruning.mask),
    )
    step = pruning_step(
        make_step(trainer.loss, optimizer), pruner, trainer.validation_accuracy, every
    )
    state = init_state(dense, optimizer, jax.random.key(trainer.seed))
    return trainer.run(
        "search", step, state._replace(pruning=pruning), epochs - dense_epochs
    ).params


METHOD = Method(
    "gated weight decay", _search, grid(decay=(3e-4, 1e-3), tolerance=(0.002, 0.005)),
    search_share=0.7, shared={"adam_rate": 1e-3, "rate": 0.1},
)  # fmt: skip
