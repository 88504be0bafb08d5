"""What every update of multipliers does: rise by some amount, stay in the dual's domain."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from sparsejax._dtypes import at_least_float32
from sparsejax._where import PyTree
from sparsejax.constraints import _arguments


def ascend(rise: PyTree, violation: PyTree, multipliers: PyTree, equality: bool) -> PyTree:
    """Updates that take ``multipliers`` to ``multipliers + rise``, or to 0 where that is negative.

    A multiplier whose violation is not finite becomes NaN.
    """

    def update(step, g, multiplier):
        wide = wide_of(multiplier)
        old = jnp.asarray(multiplier, wide)
        new = old + step.astype(wide)
        new = new if equality else jnp.maximum(new, 0)
        return jnp.where(jnp.isfinite(g), new, jnp.nan) - old

    return jax.tree.map(update, rise, violation, multipliers)


def check(violation: PyTree, multipliers: PyTree | None) -> None:
    """Raise ValueError where an update is not given what it needs."""
    if multipliers is None:
        raise ValueError("params (the multipliers) must be passed to update: it projects them")
    _arguments.check_like_multipliers(violation, multipliers)
    _arguments.check_finite(violation)


def wide_of(leaf) -> jnp.dtype:
    """The dtype in which multipliers are computed: float32 or wider."""
    return at_least_float32(leaf)
