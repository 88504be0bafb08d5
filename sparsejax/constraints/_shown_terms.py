"""The terms of the Lagrangian that a batch shows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array, PyTree

from sparsejax.constraints._implicit_multipliers import is_implicit
from sparsejax.constraints._indexed import check_indexed, is_indexed, taken


def shown_terms(
    violation: PyTree[Array], multipliers: PyTree[Array]
) -> tuple[PyTree[Array], PyTree[Array]]:
    """Return the violations that a batch shows, and the multiplier of each."""
    if not any(map(is_special, jax.tree.leaves(violation, is_leaf=is_special))):
        return violation, multipliers
    values = jax.tree.map(lambda g: g.values if is_special(g) else g, violation, is_leaf=is_special)
    return values, shown(violation, computed_multipliers(violation, multipliers))


def shown(violation: PyTree[Array], each: PyTree[Array]) -> PyTree[Array]:
    """Return what of a tree with an entry for each constraint belongs to the shown violations."""
    if not any(map(is_indexed, jax.tree.leaves(violation, is_leaf=is_special))):
        return each

    def of_leaf(g: Any, entries: Array) -> Array:
        if not is_indexed(g):
            return entries
        check_indexed(g, entries)
        return taken(entries, g.indices)

    return jax.tree.map(of_leaf, violation, each, is_leaf=is_special)


def map_values(function: Callable[[Array], Array], violation: PyTree[Array]) -> PyTree[Array]:
    """Apply a function to the violations of all constraints, whatever their kind."""

    def of_leaf(g: Any) -> Any:
        if is_indexed(g):
            return g._replace(values=function(g.values))
        if is_implicit(g):
            return dataclasses.replace(g, values=function(g.values))
        return function(g)

    return jax.tree.map(of_leaf, violation, is_leaf=is_special)


def computed_multipliers(violation: PyTree[Array], multipliers: PyTree[Array]) -> PyTree[Array]:
    """Return the multipliers, for `Implicit` violations those that their model computes."""
    if not any(map(is_implicit, jax.tree.leaves(violation, is_leaf=is_special))):
        return multipliers
    return jax.tree.map(
        lambda g, m: g.multipliers(m) if is_implicit(g) else m, violation, multipliers,
        is_leaf=is_special,
    )  # fmt: skip


def is_special(node: Any) -> bool:
    """Whether a node holds violations that are not one for each multiplier."""
    return is_indexed(node) or is_implicit(node)
