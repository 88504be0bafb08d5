"""Weight decay that spares the weights which the loss feels."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from chex import Numeric

from sparsejax import _checks
from sparsejax._dtypes import at_least_float32
from sparsejax._states import map_states, states_in
from sparsejax._where import PyTree, Where, resolve_where

Coefficient = Callable[[jax.Array], jax.Array]
"""How strongly a weight decays, as a function of the gradient of the loss in it, elementwise."""


class GatedWeightDecayState(NamedTuple):
    """State of `gated_weight_decay`."""

    step: jax.Array
    """int32: updates since the beginning or the last `reset_decay_schedule`."""


def inverse_sensitivity(gradient: jax.Array) -> jax.Array:
    r"""The coefficient of the paper, :math:`1/(1+|g|)`: 1 for a weight that the loss ignores."""
    return 1 / (1 + jnp.abs(gradient))


def gated_weight_decay(
    decay: optax.ScalarOrSchedule,
    where: Where = None,
    coefficient: Coefficient | None = None,
) -> optax.GradientTransformation:
    r"""Decay each weight the more, the less the loss feels it.

    .. math:: g \leftarrow g + 2\lambda\, C(g)\, w, \qquad C(g) = \frac{1}{1+|g|}

    the gradient of the loss  L(w) + lambda sum C w^2  with the derivative of C neglected (see
    `exact_gated_decay`). C is formed from the gradient that arrives, so one backward pass is
    enough; put it where that is the data loss's: first in a chain (behind a clipping it would see
    clipped gradients, and the decay would not be clipped), inside ``optax.MultiSteps`` to see the
    accumulated gradient, and behind the all-reduce under ``pmap``::

        optax.chain(gated_weight_decay(1e-3), optax.adam(1e-3), hold_zeros(mask))

    Relatives of it are a coefficient each: plain weight decay ``jnp.ones_like``, sensitivity-driven
    regularisation (Tartaglione et al., 2018) ``lambda g: jnp.maximum(0, 1 - jnp.abs(g))``.

    Args:
      decay: lambda, a scalar ``>= 0``, may be traced; or a schedule of the number of updates since
        the last `reset_decay_schedule`.
      where: which leaves decay; the gradient of the others is left alone.
      coefficient: C, any jittable elementwise function of the gradient, which it gets in float32 or
        wider; default `inverse_sensitivity`. Under ``optax.inject_hyperparams`` name it, and a
        ``where`` that is a function, in ``static_args``.

    Returns:
      A ``GradientTransformation``; ``update`` needs ``params``. Computed in float32 or wider,
      returned in the gradient's dtype.

    Raises:
      TypeError: a chosen leaf is not floating point, or ``coefficient`` is no function.
      ValueError: ``decay`` is negative or no scalar (of a schedule, its first value; a traced one
        is not checked); in ``update``: ``params`` is missing, or ``where`` chooses nothing.

    References:
      Bonetta and Cancelliere, Lightening CNN architectures by regularization driven weights'
      pruning, ESANN 2022 (equation 2). The published code divides by 1 - |g|; this follows the
      paper.
    """
    strength_of = _function(coefficient)
    decay_at = _checks.schedule("decay", decay, "a number >= 0", lambda x: x >= 0)

    def init(params):
        del params
        return GatedWeightDecayState(jnp.asarray(0, jnp.int32))

    def update(updates, state, params=None):
        if params is None:
            raise ValueError("params must be passed to update: it decays them")
        now = decay_at(state.step)

        def add(g, w, chosen):
            if not chosen:
                return g
            wide = at_least_float32(g)
            pull = 2 * now.astype(wide) * strength_of(g.astype(wide)) * w.astype(wide)
            return (g.astype(wide) + pull).astype(g.dtype)

        updates = jax.tree.map(add, updates, params, resolve_where(params, where))
        return updates, GatedWeightDecayState(optax.safe_increment(state.step))

    return optax.GradientTransformation(init, update)


def reset_decay_schedule(opt_state: PyTree, when: Numeric = True) -> PyTree:
    """Let the schedule of every `gated_weight_decay` begin anew.

    Args:
      opt_state: an optimizer state with one or more `GatedWeightDecayState` in it, however deeply
        chained or wrapped.
      when: whether to; a boolean scalar, may be traced (such as "a pruning has happened").

    Returns:
      An optimizer state like ``opt_state``.

    Raises:
      ValueError: there is no such state in ``opt_state``.
    """
    if not states_in(opt_state, GatedWeightDecayState):
        raise ValueError("opt_state must hold a state of sparsejax.gated_weight_decay; it has none")

    def restart(state):
        return GatedWeightDecayState(jnp.where(when, 0, state.step).astype(jnp.int32))

    return map_states(restart, opt_state, GatedWeightDecayState)


def exact_gated_decay(
    gradient: Callable[[PyTree], PyTree],
    params: PyTree,
    decay: Numeric,
    where: Where = None,
    coefficient: Coefficient | None = None,
) -> PyTree:
    r"""The whole gradient of the gated loss, with the term that `gated_weight_decay` neglects.

    .. math:: \nabla\Bigl(L + \lambda\sum_i C(g_i) w_i^2\Bigr)
              = g + 2\lambda\, C(g)\odot w + \lambda H\bigl(C'(g)\odot w^2\bigr)

    H is the Hessian of L; its product is one more backward pass, through the gradient. (The paper's
    equation 1 has the diagonal of H alone, and of that the sign.) To see what neglecting it costs,
    give this to the optimizer in place of the gradient.

    Args:
      gradient: ``params -> g``, such as ``jax.grad(loss)`` with the batch bound.
      params: where to evaluate it.
      decay: lambda, a scalar ``>= 0``, may be traced.
      where: which leaves decay.
      coefficient: C, differentiable; default `inverse_sensitivity`.

    Returns:
      A tree like ``params``.

    Raises:
      TypeError, ValueError: as `gated_weight_decay`.
    """
    strength_of = _function(coefficient)
    now = _checks.scalar_at_least_zero("decay", decay)
    mask = resolve_where(params, where)
    grads, transposed = jax.vjp(gradient, params)

    def slope(g, w, chosen):
        if not chosen:
            return jnp.zeros_like(g)
        _, derivative = jax.jvp(strength_of, (g,), (jnp.ones_like(g),))
        return derivative.astype(g.dtype) * w.astype(g.dtype) ** 2

    (curvature,) = transposed(jax.tree.map(slope, grads, params, mask))

    def total(g, w, hv, chosen):
        wide = at_least_float32(g)
        pull = hv.astype(wide)
        if chosen:
            pull += 2 * strength_of(g).astype(wide) * w.astype(wide)
        return (g.astype(wide) + now.astype(wide) * pull).astype(g.dtype)

    return jax.tree.map(total, grads, params, curvature, mask)


def _function(coefficient: Coefficient | None) -> Coefficient:
    if coefficient is None:
        return inverse_sensitivity
    if not callable(coefficient):
        raise TypeError(
            f"coefficient must be a function of the gradient; got {coefficient!r}. Under "
            'optax.inject_hyperparams give static_args=("coefficient",), else it is taken for a '
            "schedule"
        )
    return coefficient
