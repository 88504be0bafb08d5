"""Two optax chains, one that descends in the parameters and one that ascends in the multipliers."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from sparsejax._extra_args import accepting_extra_args
from sparsejax._states import fresh, states_in
from sparsejax._where import PyTree


class DescentAscentState(NamedTuple):
    """State of `descent_ascent`."""

    multipliers: PyTree
    primal: PyTree
    """State of the optimizer of the parameters."""
    dual: PyTree
    """State of the optimizer of the multipliers."""


def descent_ascent(
    primal: optax.GradientTransformation,
    dual: optax.GradientTransformation,
    multipliers: PyTree = 0.0,
) -> optax.GradientTransformationExtraArgs:
    r"""Simultaneous gradient descent in the parameters and ascent in the multipliers.

    .. math:: x_{t+1} = \operatorname{primal}\bigl(x_t, \nabla_x L(x_t, \lambda_t)\bigr), \qquad
              \lambda_{t+1} = \operatorname{dual}\bigl(\lambda_t, g(x_t)\bigr)

    The multipliers live in the optimizer's state, so they are saved, resumed and sharded with it.
    Give ``update`` the gradient of the Lagrangian at ``current_multipliers(state)`` and, as the
    keyword ``violation``, the violations; `constrained_step` does both. Other keywords go on to
    both optimizers: optax's ``value``, ``grad`` and ``value_fn`` to the primal one as they are. The
    dual one gets as ``grad`` the violation, which is the gradient of the Lagrangian in the
    multipliers, and no ``value_fn``, which is a function of the parameters.

    Args:
      primal: any optimizer of the parameters, e.g. ``optax.adam(7e-4)``.
      dual: an optimizer of the multipliers with the calling convention of `dual_ascent`.
        ``optax.set_to_zero()`` holds them: the penalised form, the same program with the weights of
        the penalties fixed.
      multipliers: their initial values: a pytree of numbers or arrays with the structure and shapes
        of the violations.

    Returns:
      A ``GradientTransformationExtraArgs`` for the parameters.

    Raises:
      TypeError, ValueError: those of ``dual.init``, such as for negative multipliers; in
        ``update``: ``violation`` is missing or does not fit the multipliers.
    """
    primal, dual = accepting_extra_args(primal), accepting_extra_args(dual)

    def init(params):
        start = jax.tree.map(_as_float, multipliers)
        # Copies: the given multipliers are not deleted when this state is donated.
        return fresh(DescentAscentState(start, primal.init(params), dual.init(start)))

    def update(updates, state, params=None, *, violation=None, **extra):
        if violation is None:
            raise ValueError("violation must be passed to update: the multipliers follow it")
        updates, primal_state = primal.update(updates, state.primal, params, **extra)
        for_dual = {name: value for name, value in extra.items() if name != "value_fn"}
        if "grad" in for_dual:
            for_dual["grad"] = violation
        rises, dual_state = dual.update(violation, state.dual, state.multipliers, **for_dual)
        raised = optax.apply_updates(state.multipliers, rises)
        return updates, DescentAscentState(raised, primal_state, dual_state)

    return optax.GradientTransformationExtraArgs(init, update)


def current_multipliers(opt_state: PyTree) -> PyTree:
    """The multipliers in the state of `descent_ascent`.

    Args:
      opt_state: an optimizer state with one `DescentAscentState` in it, however deeply chained or
        wrapped.

    Returns:
      A pytree of floating-point arrays.

    Raises:
      ValueError: there is no such state in ``opt_state``, or more than one.
    """
    found = states_in(opt_state, DescentAscentState)
    if len(found) != 1:
        raise ValueError(
            "opt_state must hold one state of sparsejax.constraints.descent_ascent; it holds "
            f"{len(found)}"
        )
    return found[0].multipliers


def _as_float(value) -> jax.Array:
    dtype = jnp.result_type(value)
    return jnp.asarray(value, dtype if jnp.issubdtype(dtype, jnp.floating) else jnp.float32)
