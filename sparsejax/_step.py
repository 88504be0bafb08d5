"""One optimisation step: the core that all training steps share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import PyTree

from sparsejax._names import named_leaves
from sparsejax._train_state import TrainState

Metrics = Mapping[str, jax.Array]

LossFunction = Callable[..., tuple[jax.Array, Any]]
"""``(params, batch, key) -> (loss, metrics)``; or, where the state has ``statistics``,
``(params, statistics, batch, key) -> (loss, (metrics, statistics))``."""


def call_loss(
    loss: LossFunction, params: PyTree, statistics: PyTree, batch: Any, key: jax.Array
) -> tuple[jax.Array, Metrics, PyTree]:
    """Call ``loss`` with the running statistics of the network, if it has some.

    Returns:
      ``(value, metrics, statistics)``; the statistics are None if the network has none.

    Raises:
      TypeError: ``loss`` returns something else.
    """
    if statistics is None:
        value, metrics = _pair(loss(params, batch, key), "(loss, metrics)")
        return value, metrics, None
    wanted = "(loss, (metrics, statistics))"
    value, rest = _pair(loss(params, statistics, batch, key), wanted)
    metrics, statistics = _pair(rest, wanted)
    return value, metrics, statistics


def _pair(found: Any, wanted: str) -> Any:
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise TypeError(
            f"loss must return {wanted}, where metrics are scalars by name, perhaps none ({{}}); "
            f"got {found!r}"
        )
    return found


def gradient_step(
    objective: Callable[[PyTree], tuple[jax.Array, Any]],
    optimizer: optax.GradientTransformationExtraArgs,
    state: TrainState,
    *,
    extra_args: Callable[[Any], Mapping[str, Any]] = lambda aux: {},
    value_fn: Callable[..., jax.Array] | None = None,
    axis_name: str | None = None,
) -> tuple[TrainState, jax.Array, Any]:
    r"""Take one step of an optimizer on a scalar objective.

    .. math:: x_{t+1} = x_t + u_t, \qquad (u_t, s_{t+1}) = \text{update}(\nabla f(x_t), s_t, x_t)

    The optimizer receives the extra arguments of optax's protocol: ``value``, the objective;
    ``grad``, its gradient; and ``value_fn``, a function of the parameters that computes the
    objective. Line searches and ``optax.contrib.reduce_on_plateau`` need them.

    Args:
      objective: ``params -> (value, aux)``.
      optimizer: a transformation that accepts any extra argument (see ``accepting_extra_args``).
      state: supplies ``params`` and ``opt_state``.
      extra_args: ``aux -> arguments``, further extra arguments for the optimizer.
      value_fn: replaces the default ``value_fn``, which is the value of ``objective``.
      axis_name: the axis of ``jax.pmap`` or ``jax.shard_map`` over which the value, ``aux`` and the
        gradients are averaged, those of ``value_fn`` too.

    Returns:
      ``(state, value, aux)``: the state with the new ``step``, ``params`` and ``opt_state``, and
      the value and ``aux`` at the parameters before the step.

    Raises:
      TypeError: a parameter has no gradient, since it is not floating point.
    """
    _check_trainable(state.params)
    (value, aux), grads = jax.value_and_grad(objective, has_aux=True)(state.params)
    value_fn = value_fn or (lambda params: objective(params)[0])
    if axis_name is not None:
        value, aux, grads = lax.pmean((value, aux, grads), axis_name)
        value_fn = _averaged(value_fn, axis_name)
    updates, opt_state = optimizer.update(
        grads,
        state.opt_state,
        state.params,
        value=value,
        grad=grads,
        value_fn=value_fn,
        **extra_args(aux),
    )
    params = optax.apply_updates(state.params, updates)
    state = state._replace(step=state.step + 1, params=params, opt_state=opt_state)
    return state, value, aux


def _check_trainable(params: PyTree) -> None:
    for label, leaf in named_leaves(params):
        dtype = leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf)
        if not jnp.issubdtype(dtype, jnp.inexact):
            raise TypeError(
                f"params must be floating point to be trained; {label or 'params'} is {dtype}. Let "
                "the loss close over such arrays, or read them from the statistics of init_state"
            )


def _averaged(function: Callable[..., jax.Array], axis_name: str) -> Callable[..., Any]:
    """The mean over the devices of a mapped axis, with the mean of the gradients as its gradient.

    The derivative of ``pmean(function(x))`` on each device would be that device's gradient alone.
    """

    @jax.custom_jvp
    def mean(params: PyTree) -> Any:
        return lax.pmean(function(params), axis_name)

    @mean.defjvp
    def derivative(primals: Any, tangents: Any) -> tuple[Any, Any]:
        value, grads = lax.pmean(jax.value_and_grad(function)(*primals), axis_name)
        slope: Any = optax.tree.vdot(grads, *tangents)
        return value, slope.astype(value.dtype)

    return mean
