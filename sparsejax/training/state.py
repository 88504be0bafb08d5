"""What a training run carries from step to step, and the step that carries it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from sparsejax._where import PyTree

Batch = Mapping[str, jax.Array]
Metrics = Mapping[str, jax.Array]
LossFunction = Callable[[PyTree, Batch, jax.Array], tuple[jax.Array, Metrics]]


class TrainState(NamedTuple):
    """Everything a step changes: a pytree of arrays, so that it is saved and sharded as a whole."""

    step: jax.Array
    """int32: steps taken. With the seed it fixes the epoch, the position in it and the batch."""
    params: PyTree
    opt_state: PyTree
    key: jax.Array
    """A typed PRNG key; step t uses ``jax.random.fold_in(key, t)``."""


StepFunction = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def init_state(
    params: PyTree, optimizer: optax.GradientTransformation, key: jax.Array
) -> TrainState:
    """The state before the first step, with ``optimizer.init(params)`` and a typed PRNG key."""
    return TrainState(jnp.asarray(0, jnp.int32), params, optimizer.init(params), key)


def make_step(loss: LossFunction, optimizer: optax.GradientTransformation) -> StepFunction:
    """One optimisation step as a pure function, not yet jitted.

    Args:
      loss: ``(params, batch, key) -> (loss, metrics)``; ``metrics`` are scalars, such as an error.
      optimizer: any optax transformation.

    Returns:
      ``(state, batch) -> (state, metrics)``; ``metrics`` gains ``loss``.
    """

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(state.key, state.step)
        (value, metrics), grads = jax.value_and_grad(loss, has_aux=True)(state.params, batch, key)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, opt_state, state.key), {"loss": value, **metrics}

    return step
