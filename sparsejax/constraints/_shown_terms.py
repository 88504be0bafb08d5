"""The terms of the Lagrangian that a batch shows."""

from __future__ import annotations

from typing import Any

import jax
from jaxtyping import Array, PyTree

from sparsejax.constraints._implicit_multipliers import is_implicit
from sparsejax.constraints._indexed import check_indexed, is_indexed


def shown_terms(
    violation: PyTree[Array], multipliers: PyTree[Array]
) -> tuple[PyTree[Array], PyTree[Array]]:
    """Return the violations that a batch shows, and the multiplier of each."""
    if not any(map(_is_special, jax.tree.leaves(violation, is_leaf=_is_special))):
        return violation, multipliers
    values = jax.tree.map(
        lambda g: g.values if _is_special(g) else g, violation, is_leaf=_is_special
    )
    computed = computed_multipliers(violation, multipliers)
    shown = jax.tree.map(_shown, violation, computed, is_leaf=_is_special)
    return values, shown


def _shown(violation: Any, multipliers: Array) -> Array:
    """Return the multipliers of the violations of a leaf."""
    if not is_indexed(violation):
        return multipliers
    check_indexed(violation, multipliers)
    return multipliers[violation.indices]


def computed_multipliers(violation: PyTree[Array], multipliers: PyTree[Array]) -> PyTree[Array]:
    """Return the multipliers, for `Implicit` violations those that their model computes."""
    if not any(map(is_implicit, jax.tree.leaves(violation, is_leaf=_is_special))):
        return multipliers
    return jax.tree.map(
        lambda g, m: g.multipliers(m) if is_implicit(g) else m, violation, multipliers,
        is_leaf=_is_special,
    )  # fmt: skip


def _is_special(node: Any) -> bool:
    return is_indexed(node) or is_implicit(node)
