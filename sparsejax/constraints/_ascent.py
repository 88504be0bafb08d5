"""The projected update of multipliers that all dual optimizers have in common."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from sparsejax._dtypes import at_least_float32
from sparsejax._explicit_axes import cut_like
from sparsejax.constraints import _arguments


def ascend(
    step: PyTree[Array], violation: PyTree[Array], multipliers: PyTree[Array], equality: bool
) -> PyTree[Array]:
    """Updates that take ``multipliers`` to ``multipliers + step``, projected to >= 0.

    There is no projection for equality constraints. A multiplier whose violation is not finite
    becomes NaN.
    """

    def update(s: Array, g: Array, multiplier: Array) -> Array:
        wide = at_least_float32(multiplier)
        old = jnp.asarray(multiplier, wide)
        new = old + s.astype(wide)
        new = new if equality else jnp.maximum(new, 0)
        return jnp.where(jnp.isfinite(g), new, jnp.nan) - old

    return jax.tree.map(update, step, violation, multipliers)


def placed(violation: PyTree[Array], multipliers: PyTree[Array]) -> PyTree[Array]:
    """Return the violations, cut as their multipliers are on a mesh with explicit axes."""
    return jax.tree.map(
        lambda g, m: cut_like(jnp.asarray(g), jnp.asarray(m)), violation, multipliers
    )


def check(violation: PyTree[Array], multipliers: PyTree[Array] | None) -> None:
    """Raise ValueError if ``update`` of a dual optimizer is called with invalid arguments."""
    if multipliers is None:
        raise ValueError("params (the multipliers) must be passed to update, which projects them")
    _arguments.check_like_multipliers(violation, multipliers)
    _arguments.check_finite(violation)
