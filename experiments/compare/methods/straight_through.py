"""Straight-through estimation: the forward pass sees the largest weights, all are trained.

The budget is divided over the layers in advance: of all initial weights together those of the first
layer are the smallest, and at 1 % none of them would be seen.
"""

from __future__ import annotations

from typing import Any

import jax

from experiments.compare.methods.method import Method, grid
from experiments.compare.trainer import Trainer
from sparsejax.training import TrainState
from sparsejax.transforms import erdos_renyi, project_sparsity, straight_through


def _search(trainer: Trainer, epochs: int) -> Any:
    def largest(params: Any) -> Any:
        return project_sparsity(params, trainer.sparsity, erdos_renyi())

    forward = straight_through(largest)

    def loss(params: Any, batch: Any, key: jax.Array) -> Any:
        return trainer.loss(forward(params), batch, key)

    def shown(state: TrainState) -> Any:
        return largest(state.params)

    optimizer = trainer.sgd(trainer.settings["rate"], epochs)
    return shown(trainer.descend("search", trainer.initial, optimizer, epochs, loss, shown))


METHOD = Method("straight-through estimator", _search, grid(rate=(0.01, 0.03, 0.1, 0.3)))
