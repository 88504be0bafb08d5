"""Dense training; and pruning by magnitude after training, once or in rounds."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import optax

from experiments.compare.methods.method import Method, grid
from experiments.compare.trainer import Trainer
from sparsejax.transforms import all_together, project_sparsity


def _train(trainer: Trainer, epochs: int) -> Any:
    optimizer = trainer.sgd(trainer.settings["rate"], epochs)
    return trainer.descend("search", trainer.initial, optimizer, epochs).params


def _rounds(trainer: Trainer, epochs: int) -> Any:
    """Rounds of training, pruning and rewinding to the end of the first epoch; then a last one."""
    rate = trainer.settings["rate"]
    rounds = min(trainer.settings["rounds"], epochs - 2)  # an epoch for each, at least
    first = trainer.descend("first_epoch", trainer.initial, optax.sgd(rate, 0.9, True), 1).params
    ends = [1 + (epochs - 1) * n // (rounds + 1) for n in range(rounds + 2)]
    params = first
    for number, (begin, end) in enumerate(itertools.pairwise(ends)):
        params = trainer.fine_tune(f"round_{number}", params, rate, end - begin)
        if number < rounds:
            left = (1 - trainer.sparsity) ** ((number + 1) / rounds)
            kept = project_sparsity(params, 1 - left, all_together())
            # Biases are rewound, too.
            params = jax.tree.map(
                lambda old, new: old * (new != 0) if old.ndim > 1 else old, first, kept
            )
    return params


_RATES = (0.1, 0.3)

DENSE = Method("dense", _train, grid(rate=(0.05, 0.1, 0.2, 0.4)))
ONE_SHOT = Method("one-shot pruning", _train, grid(rate=_RATES, search_share=(0.3, 0.6)))
ITERATIVE = Method("iterative magnitude pruning", _rounds, grid(rate=_RATES, rounds=(3, 7)))
