"""A primal and a dual optimizer in one transformation: simultaneous descent and ascent."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Float, PyTree

from sparsejax._dtypes import promoted
from sparsejax._extra_args import accepting_extra_args
from sparsejax._states import fresh, states_in


class DescentAscentState(NamedTuple):
    """State of `descent_ascent`.

    Attributes:
      multipliers: pytree of float arrays, the current multipliers.
      primal: state of the optimizer of the parameters.
      dual: state of the optimizer of the multipliers.
    """

    multipliers: PyTree[Float[Array, "..."]]
    primal: PyTree
    dual: PyTree


def descent_ascent(
    primal: optax.GradientTransformation,
    dual: optax.GradientTransformation,
    multipliers: PyTree[ArrayLike] = 0.0,
) -> optax.GradientTransformationExtraArgs:
    r"""Simultaneous gradient descent on the parameters and ascent on the multipliers.

    .. math:: x_{t+1} = \operatorname{primal}\bigl(x_t, \nabla_x L(x_t, \lambda_t)\bigr), \qquad
              \lambda_{t+1} = \operatorname{dual}\bigl(\lambda_t, g(x_t)\bigr)

    The multipliers are part of the optimizer's state, so that they are checkpointed, resumed and
    sharded with it. ``update`` takes the gradient of the Lagrangian at
    ``current_multipliers(state)`` and, as the keyword argument ``violation``, the violations;
    `constrained_step` passes both. Other keyword arguments are passed on to both optimizers. The
    primal optimizer gets ``value``, ``grad`` and ``value_fn`` of optax's protocol unchanged. The
    dual optimizer gets the violation as ``grad``, since it is the gradient of the Lagrangian with
    respect to the multipliers, and no ``value_fn``, which is a function of the parameters.

    Args:
      primal: optimizer of the parameters, e.g. ``optax.adam(7e-4)``.
      dual: optimizer of the multipliers, with the calling convention of `dual_ascent`.
        ``optax.set_to_zero()`` keeps the multipliers constant, which is the penalised problem with
        fixed penalty weights.
      multipliers: initial multipliers, a pytree of numbers or arrays with the structure and shapes
        of the violations.

    Returns:
      A ``GradientTransformationExtraArgs`` for the parameters.

    Raises:
      TypeError: in ``init``: multipliers are an array that is not floating point, or ``dual.init``
        raises it.
      ValueError: in ``init``: ``dual.init`` raises it, e.g. for negative multipliers; in
        ``update``: ``violation`` is missing or does not fit the multipliers.

    References:
      Gallego-Posada, Ramirez, Erraqabi, Bengio and Lacoste-Julien, Controlled sparsity via
      constrained optimization or: how I learned to stop tuning penalties and love constraints,
      NeurIPS 2022.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> from sparsejax.constraints import current_multipliers, descent_ascent, dual_ascent
      >>> optimizer = descent_ascent(optax.sgd(0.1), dual_ascent(0.5, restarts=False))
      >>> params = jnp.array(0.0)
      >>> state = optimizer.init(params)
      >>> for _ in range(100):  # min (x - 2)**2 subject to x <= 1
      ...     multiplier = current_multipliers(state)
      ...     grad = jax.grad(lambda x: (x - 2) ** 2 + multiplier * (x - 1))(params)
      ...     updates, state = optimizer.update(grad, state, params, violation=params - 1)
      ...     params = optax.apply_updates(params, updates)
      >>> print(f"x = {params:.3f}, multiplier = {current_multipliers(state):.3f}")
      x = 1.000, multiplier = 2.000
    """
    primal, dual = accepting_extra_args(primal), accepting_extra_args(dual)

    def init(params: optax.Params) -> DescentAscentState:
        start = jax.tree.map(_as_float, multipliers)
        # Copies, so that donating this state does not delete the given multipliers.
        state: DescentAscentState = fresh(
            DescentAscentState(start, primal.init(params), dual.init(start))
        )
        return state

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        *,
        violation: PyTree[Float[Array, "..."]] | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, DescentAscentState]:
        if violation is None:
            raise ValueError("violation must be passed to update, for the multipliers")
        updates, primal_state = primal.update(updates, state.primal, params, **extra)
        for_dual = {name: value for name, value in extra.items() if name != "value_fn"}
        if "grad" in for_dual:
            for_dual["grad"] = violation
        ascent, dual_state = dual.update(violation, state.dual, state.multipliers, **for_dual)
        new_multipliers = jax.tree.map(_moved, state.multipliers, ascent)
        return updates, DescentAscentState(new_multipliers, primal_state, dual_state)

    return optax.GradientTransformationExtraArgs(init, update)


def current_multipliers(opt_state: PyTree) -> PyTree[Float[Array, "..."]]:
    """Return the multipliers in the state of `descent_ascent`.

    Args:
      opt_state: an optimizer state that contains one `DescentAscentState`, chained or wrapped in
        any way.

    Returns:
      A pytree of floating-point arrays.

    Raises:
      ValueError: ``opt_state`` contains no such state, or more than one.
    """
    found = states_in(opt_state, DescentAscentState)
    if len(found) != 1:
        raise ValueError(
            "opt_state must hold one state of sparsejax.constraints.descent_ascent; it holds "
            f"{len(found)}"
        )
    return found[0].multipliers


def _as_float(value: ArrayLike) -> Float[Array, "..."]:
    if type(value) is int:
        value = float(value)
    dtype = jnp.result_type(value)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"multipliers must be floating point; got {value!r} of dtype {dtype}")
    return jnp.asarray(value, dtype)


def _moved(multiplier: Array, ascent: Array) -> Array:
    """Return the sum as ``optax.apply_updates`` does, under any setting of dtype promotion."""
    wide = promoted(multiplier, ascent)
    return (jnp.asarray(multiplier, wide) + jnp.asarray(ascent, wide)).astype(multiplier.dtype)
