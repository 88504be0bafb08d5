"""A plain training step, and the types of steps and states."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

import jax
import optax
from jax import lax
from jaxtyping import PyTree

from sparsejax._extra_args import accepting_extra_args
from sparsejax._step import LossFunction, Metrics, call_loss, gradient_step
from sparsejax._train_state import TrainState

Batch = Mapping[str, jax.Array]


class State(Protocol):
    """The part of a state that `fit` reads: a `TrainState`, or a pytree of arrays of your own."""

    @property
    def step(self) -> jax.Array:
        """An int32 scalar: the number of steps taken."""

    @property
    def params(self) -> PyTree:
        """The parameters that are trained."""


AnyState = TypeVar("AnyState", bound=State)
StepFunction = Callable[[AnyState, Batch], tuple[AnyState, Metrics]]
"""A training step: ``(state, batch) -> (state, metrics)``, as `fit` takes it."""


def make_step(
    loss: LossFunction, optimizer: optax.GradientTransformation, axis_name: str | None = None
) -> StepFunction[TrainState]:
    r"""Build one optimisation step as a pure function that is not jitted yet.

    .. math:: x_{t+1} = x_t + \text{update}\left(\nabla_x L(x_t, b_t)\right)

    The optimizer receives the extra arguments of optax's protocol: ``value``, the loss; ``grad``,
    its gradient; and ``value_fn``, a function of the parameters that computes the loss of the same
    batch with the same key. Line searches (``optax.lbfgs``,
    ``optax.scale_by_backtracking_linesearch``) and ``optax.contrib.reduce_on_plateau`` therefore
    work as any other transformation does.

    Args:
      loss: ``(params, batch, key) -> (loss, metrics)``, where ``metrics`` are scalars by name, such
        as an error. If the state has ``statistics``: ``(params, statistics, batch, key) -> (loss,
        (metrics, statistics))``; those that it returns as it got them, such as a teacher's
        parameters, stay as they are.
      optimizer: any optax transformation.
      axis_name: for a step inside ``jax.pmap`` or ``jax.shard_map``, where each device sees its
        part of the batch: the axis over which loss, gradients, metrics and statistics are averaged
        (those of ``value_fn`` too). The key differs from device to device there. Not needed under
        ``jit``, on a mesh or not.

    Returns:
      ``(state, batch) -> (state, metrics)``, where ``metrics`` gains ``loss``. The parts of the
      state that the step does not use are left alone.
    """
    extra_args_optimizer = accepting_extra_args(optimizer)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(state.key, state.step)
        if axis_name is not None:
            key = jax.random.fold_in(key, lax.axis_index(axis_name))

        def objective(params: PyTree) -> tuple[jax.Array, Any]:
            value, *aux = call_loss(loss, params, state.statistics, batch, key)
            return value, aux

        state, value, (metrics, statistics) = gradient_step(
            objective, extra_args_optimizer, state, axis_name=axis_name
        )
        return state._replace(statistics=statistics), {"loss": value, **metrics}

    return step
