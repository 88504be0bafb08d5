"""Groups of leaves that one reduction counts together."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TypeVar

import jax

from sparsejax.projections._count import kind_on_mesh
from sparsejax.projections._shards import Layout, automatic_shards

T = TypeVar("T")

_INT32 = 2**31 - 1


class Group(tuple[int, ...]):
    """The numbers of the leaves that are counted together."""

    def of(self, values: Sequence[T]) -> list[T]:
        """The values of these leaves, from those of all leaves."""
        return [values[n] for n in self]


def alike(leaves: Sequence[jax.Array], layouts: Sequence[Layout], most: int) -> list[Group]:
    """Return groups of leaves of one shape, where the compiler cannot have sharded a leaf.

    Elsewhere leaves of one shape may be sharded in different ways, and each is a group of its own.
    """
    if any(automatic_shards(leaf) > 1 for leaf in leaves):
        return [Group([n]) for n in range(len(leaves))]
    kinds: dict[Hashable, list[int]] = {}
    for n, (leaf, layout) in enumerate(zip(leaves, layouts, strict=True)):
        kinds.setdefault((leaf.shape, layout, kind_on_mesh(leaf, layout)), []).append(n)
    groups = []
    for members in kinds.values():
        size = layouts[members[0]].size(leaves[members[0]])
        # Of nearly equal length, so that XLA:CPU generates code at most twice for a shape.
        pieces = -(-len(members) // min(most, _INT32 // max(size, 1)))
        groups += [Group(members[n::pieces]) for n in range(pieces)]
    return groups
