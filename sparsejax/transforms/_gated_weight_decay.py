"""Weight decay scaled by the inverse sensitivity of the loss to each weight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Bool, Float, Int32, PyTree, Real

from sparsejax import _checks
from sparsejax._dtypes import at_least_float32
from sparsejax._states import map_states, states_in
from sparsejax._where import Where, resolve_where

Coefficient: TypeAlias = Callable[[Float[Array, "..."]], Float[Array, "..."]]
"""The decay of each weight, relative to lambda, as an elementwise function of the gradient."""


class GatedWeightDecayState(NamedTuple):
    """State of `gated_weight_decay`."""

    step: Int32[Array, ""]
    """The number of updates since the beginning or the last `reset_decay_schedule`."""


def inverse_sensitivity(gradient: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""Return the decay coefficient of the paper, which is 1 where the loss is insensitive.

    .. math:: C(g) = \frac{1}{1+|g|}

    Args:
      gradient: the gradient of the loss, of any shape and floating-point dtype.

    Returns:
      An array in ``(0, 1]`` of the shape and dtype of ``gradient``.

    References:
      Bonetta and Cancelliere, Lightening CNN architectures by regularization driven weights'
      pruning, ESANN 2022.
    """
    return 1 / (1 + jnp.abs(gradient))


def gated_weight_decay(
    decay: optax.ScalarOrSchedule,
    where: Where = None,
    coefficient: Coefficient | None = None,
) -> optax.GradientTransformation:
    r"""Weight decay scaled by the inverse sensitivity of the loss to each weight.

    .. math:: g \leftarrow g + 2\lambda\, C(g)\, w, \qquad C(g) = \frac{1}{1+|g|}

    This is the gradient of the loss  L(w) + lambda sum C w^2  without the derivative of C, for
    which see `exact_gated_decay`. C depends on the incoming gradient, so one backward pass
    suffices. Place the transformation where that gradient is the gradient of the data loss:

    - first in a chain, since behind gradient clipping it would see clipped gradients and its own
      decay would not be clipped;
    - inside ``optax.MultiSteps``, to see the accumulated gradient;
    - behind the all-reduce under ``pmap``.

    Other coefficients give related methods: ``jnp.ones_like`` is plain weight decay, and
    ``lambda g: jnp.maximum(0, 1 - jnp.abs(g))`` is the sensitivity-driven regularisation of
    Tartaglione et al.

    Args:
      decay: lambda, a scalar ``>= 0`` in units of the loss per squared unit of weight; may be
        traced. Or a schedule of it over the updates since the last `reset_decay_schedule`.
      where: the leaves that decay; the gradients of all others are returned unchanged.
      coefficient: C, a jittable elementwise function of the gradient, which is passed in float32 or
        wider; None for `inverse_sensitivity`. Under ``optax.inject_hyperparams``, name it (and a
        ``where`` that is a function) in ``static_args``.

    Returns:
      A ``GradientTransformation`` whose ``update`` needs ``params``. The arithmetic uses float32 or
      wider, and the updates have the dtypes of the gradients.

    Raises:
      TypeError: ``decay`` is not a number or ``coefficient`` is not a function; in ``update``: a
        chosen leaf is not floating point.
      ValueError: ``decay`` (the first value of a schedule) is negative, NaN or not a scalar; in
        ``update``: ``params`` is missing, or ``where`` chooses nothing.

    References:
      Bonetta and Cancelliere, Lightening CNN architectures by regularization driven weights'
      pruning, ESANN 2022 (equation 2). The published code divides by 1 - abs(g); this function
      follows the paper. Tartaglione et al., Learning sparse neural networks via
      sensitivity-driven regularization, NeurIPS 2018.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from sparsejax import gated_weight_decay
      >>> params = {"kernel": jnp.array([[2.0, 2.0]])}
      >>> grads = {"kernel": jnp.array([[0.0, 3.0]])}
      >>> optimizer = optax.chain(gated_weight_decay(0.25), optax.sgd(1.0))
      >>> updates, _ = optimizer.update(grads, optimizer.init(params), params)
      >>> optax.apply_updates(params, updates)["kernel"]
      Array([[ 1.  , -1.25]], dtype=float32)
    """
    strength_of = _function(coefficient)
    decay_at = _checks.schedule("decay", decay, "a number >= 0", lambda x: x >= 0)

    def init(params: optax.Params) -> GatedWeightDecayState:
        del params
        return GatedWeightDecayState(jnp.asarray(0, jnp.int32))

    def update(
        updates: optax.Updates, state: Any, params: optax.Params | None = None
    ) -> tuple[optax.Updates, GatedWeightDecayState]:
        if params is None:
            raise ValueError("params must be passed to update, since gated_weight_decay needs them")
        now = decay_at(state.step)

        def add(g: jax.Array, w: jax.Array, chosen: bool) -> jax.Array:
            if not chosen:
                return g
            wide = at_least_float32(g)
            pull = 2 * now.astype(wide) * strength_of(g.astype(wide)) * w.astype(wide)
            return (g.astype(wide) + pull).astype(g.dtype)

        updates = jax.tree.map(add, updates, params, resolve_where(params, where))
        return updates, GatedWeightDecayState(jnp.asarray(optax.safe_increment(state.step)))

    return optax.GradientTransformation(init, update)


def reset_decay_schedule(opt_state: PyTree, when: Bool[ArrayLike, ""] = True) -> PyTree:
    """Restart the schedule of every `gated_weight_decay` in an optimizer state.

    Args:
      opt_state: an optimizer state that holds one or more `GatedWeightDecayState`, at any depth of
        chains and wrappers.
      when: whether to restart; a boolean scalar, which may be traced.

    Returns:
      An optimizer state with the structure, shapes and dtypes of ``opt_state``.

    Raises:
      ValueError: ``opt_state`` holds no `GatedWeightDecayState`.
    """
    if not states_in(opt_state, GatedWeightDecayState):
        raise ValueError("opt_state must hold a state of sparsejax.gated_weight_decay; it has none")

    def restart(state: GatedWeightDecayState) -> GatedWeightDecayState:
        return GatedWeightDecayState(jnp.where(when, 0, state.step).astype(jnp.int32))

    return map_states(restart, opt_state, GatedWeightDecayState)


def exact_gated_decay(
    gradient: Callable[[PyTree[Array]], PyTree[Array]],
    params: PyTree[Array],
    decay: Real[ArrayLike, ""],
    where: Where = None,
    coefficient: Coefficient | None = None,
) -> PyTree[Array]:
    r"""Return the exact gradient of the gated loss, with the term that `gated_weight_decay` omits.

    .. math:: \nabla\Bigl(L + \lambda\sum_i C(g_i) w_i^2\Bigr)
              = g + 2\lambda\, C(g)\odot w + \lambda H\bigl(C'(g)\odot w^2\bigr)

    H is the Hessian of L. Its product costs one more backward pass, through the gradient. (Equation
    1 of the paper has only the sign of the diagonal of H.) Pass the result to the optimizer in
    place of the gradient to measure the effect of the omitted term.

    Args:
      gradient: ``params -> g``, such as ``jax.grad(loss)`` for a fixed batch.
      params: pytree of floating-point arrays at which the gradient is evaluated.
      decay: lambda, a scalar ``>= 0`` in units of the loss per squared unit of weight; may be
        traced.
      where: the leaves that decay.
      coefficient: C, a differentiable elementwise function; None for `inverse_sensitivity`.

    Returns:
      A tree with the structure, shapes and dtypes of the gradient.

    Raises:
      TypeError: ``decay`` is not a number, ``coefficient`` is not a function, or a chosen leaf is
        not floating point.
      ValueError: ``decay`` is negative, NaN or not a scalar, or ``where`` chooses nothing.

    References:
      Bonetta and Cancelliere, Lightening CNN architectures by regularization driven weights'
      pruning, ESANN 2022 (equation 1).
    """
    strength_of = _function(coefficient)
    now = _checks.scalar_at_least_zero("decay", decay)
    mask = resolve_where(params, where)
    grads, transposed = jax.vjp(gradient, params)

    def slope(g: jax.Array, w: jax.Array, chosen: bool) -> jax.Array:
        if not chosen:
            return jnp.zeros_like(g)
        derivative: jax.Array = jax.jvp(strength_of, (g,), (jnp.ones_like(g),))[1]
        return derivative.astype(g.dtype) * w.astype(g.dtype) ** 2

    (curvature,) = transposed(jax.tree.map(slope, grads, params, mask))

    def total(g: jax.Array, w: jax.Array, hv: jax.Array, chosen: bool) -> jax.Array:
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
            'optax.inject_hyperparams pass static_args=("coefficient",), since otherwise it takes '
            "the function for a schedule"
        )
    return coefficient
