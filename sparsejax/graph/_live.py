"""The fewest units from which all outputs can be computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from sparsejax.graph._bias_folding import BiasFolding, removable_units
from sparsejax.graph._constants import Constants
from sparsejax.graph._edges import (
    ContractionEdge,
    Edge,
    ProductEdge,
    ReductionEdge,
    ReshapeEdge,
    SliceEdge,
)
from sparsejax.graph._group_builder import DependencyGroups
from sparsejax.graph._product import Product

Live = dict[int, np.ndarray]
"""Masks of the units that are kept, by dependency group."""

Needs = Callable[[Live], Iterator[tuple[int, np.ndarray]]]
"""Yields groups and masks of their units that an edge needs, given those that are kept."""


class _Step(NamedTuple):
    """An edge."""

    readers: tuple[int, ...]
    """The groups on which it depends what the edge needs."""
    read: tuple[int, ...]
    """The groups that it needs units of."""
    needs: Needs
    """What it needs."""

    @property
    def groups(self) -> tuple[int, ...]:
        """All groups that the edge is about."""
        return self.readers + self.read


def find_live(
    groups: DependencyGroups,
    constants: Constants,
    foldings: Mapping[int, BiasFolding],
    at_least_one: bool,
    needed: Mapping[int, np.ndarray] | None = None,
) -> Live:
    """Return masks of the units that are kept, by dependency group.

    Units of whole groups are kept, and so is what kept units are computed from: the least fixed
    point of all edges.

    Args:
      groups: the dependency groups of a graph.
      constants: its constants.
      foldings: the biases that absorb constant units.
      at_least_one: whether each group keeps one unit at least.
      needed: masks of units that are kept in any case, by group.

    Returns:
      A mask for each group, true where a unit is kept.
    """
    whole = groups.whole | groups.unsupported.keys()
    live = {group: np.full(size, group in whole, bool) for group, size in groups.sizes.items()}
    for group, mask in (needed or {}).items():
        live[group] |= mask
    search = _Search(live, [_step(edge, constants, foldings) for edge in groups.edges])
    search.run()
    if not at_least_one:
        return live
    last: dict[int, int] = {}
    for position, edge in enumerate(groups.edges):
        if isinstance(edge, ContractionEdge):
            last |= dict.fromkeys((edge.read, *edge.written), position)
    for group in live.keys() - search.groups:  # nothing depends on which unit it is
        search.keep(group, np.arange(len(live[group])) == 0)
    # The last empty group gets a unit first: what that unit reads is kept, too.
    while empty := [group for group, mask in live.items() if len(mask) and not mask.any()]:
        group = max(empty, key=lambda group: (last.get(group, -1), group))
        search.keep(group, np.arange(len(live[group])) == 0)
        search.run()
    return live


class _Search:
    """The least fixed point of steps, whose units only grow."""

    def __init__(self, live: Live, steps: Sequence[_Step]):
        self.live, self.steps = live, steps
        self.groups = {group for step in steps for group in step.groups}
        """The groups that steps are about."""
        self._version = dict.fromkeys(live, 0)
        self._seen: list[tuple[int, ...]] = [()] * len(steps)

    def keep(self, group: int, mask: np.ndarray) -> bool:
        """Keep units of a group; return whether they are more than before."""
        more = bool((mask & ~self.live[group]).any())
        if more:
            self.live[group] |= mask
            self._version[group] += 1
        return more

    def run(self) -> None:
        """Keep what kept units are computed from, until nothing is added."""
        changed = True
        while changed:
            changed = False
            for number in reversed(range(len(self.steps))):
                readers, _, needs = self.steps[number]
                version = (1, *(self._version[group] for group in readers))
                if version == self._seen[number]:
                    continue
                self._seen[number] = version
                for group, mask in needs(self.live):
                    changed |= self.keep(group, mask)


def _step(edge: Edge, constants: Constants, foldings: Mapping[int, BiasFolding]) -> _Step:
    if isinstance(edge, SliceEdge):
        return _slice(edge)
    if isinstance(edge, ReshapeEdge):
        return _reshape(edge)
    if isinstance(edge, ProductEdge):
        return _product(edge, constants.products[edge.equation])
    if isinstance(edge, ReductionEdge):
        return _reduction(edge, constants.reduced[edge.equation][edge.axis])
    needed = ~removable_units(edge, constants, foldings).mask
    return _contraction(edge, constants.weights[edge.equation].nonzero, needed)


def _slice(edge: SliceEdge) -> _Step:
    """Keep the units that kept ones are."""

    def needs(live: Live) -> Iterator[tuple[int, np.ndarray]]:
        here = live[edge.reader][edge.start : edge.start + len(edge.indices)]
        mask = np.zeros_like(live[edge.source])
        mask[edge.indices[here]] = True
        yield edge.source, mask

    return _Step((edge.reader,), (edge.source,), needs)


def _reshape(edge: ReshapeEdge) -> _Step:
    """Keep the factors of kept tuples, and all tuples of a grid."""

    def needs(live: Live) -> Iterator[tuple[int, np.ndarray]]:
        lengths = [len(live[factor]) for factor in edge.factors]
        yield from _units_of_tuples(edge.factors, live[edge.merged].reshape(lengths))
        if edge.grid:
            whole = np.zeros(lengths, bool)
            whole[np.ix_(*(live[factor] for factor in edge.factors))] = True
            yield edge.merged, whole.ravel()

    groups = (edge.merged, *edge.factors)
    return _Step(groups if edge.grid else groups[:1], groups, needs)


def _units_of_tuples(groups: Sequence[int], tuples: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the units of each group that are in one of the tuples."""
    for axis, group in enumerate(groups):
        others = tuple(other for other in range(tuples.ndim) if other != axis)
        yield group, np.logical_or.reduce(tuples, axis=others)


def _contraction(edge: ContractionEdge, nonzero: np.ndarray, needed: np.ndarray) -> _Step:
    """Keep the units that have a weight to a kept one, unless a bias absorbs them."""

    def needs(live: Live) -> Iterator[tuple[int, np.ndarray]]:
        read = nonzero
        for group in reversed(edge.written):
            mask = live[group]
            read = np.any(read if mask.all() else read[..., mask], axis=-1)
        yield edge.read, read & needed

    return _Step(edge.written, (edge.read,), needs)


def _product(edge: ProductEdge, products: Sequence[Product]) -> _Step:
    """Keep the tuples at which both factors may be different from zero, for a kept entry."""
    written = (*edge.batch, *edge.left, *edge.right)

    def needs(live: Live) -> Iterator[tuple[int, np.ndarray]]:
        if not all(live[group].any() for group in written):
            return
        for left, right in products:
            here = left.over_free([live[group] for group in edge.left])
            here = here & right.over_free([live[group] for group in edge.right])
            for group in edge.batch:
                here = np.asarray(np.compress(live[group], here, 0).any(0))
            yield from _units_of_tuples(edge.read, here)

    return _Step(written, edge.read, needs)


def _reduction(edge: ReductionEdge, needed: np.ndarray) -> _Step:
    """Keep the units that change the results, if one of these is kept; for known entries, those."""

    def needs(live: Live) -> Iterator[tuple[int, np.ndarray]]:
        if needed.ndim > 1:
            changes = needed
            for group in reversed(edge.written):
                changes = np.asarray(np.compress(live[group], changes, -1).any(-1))
            yield edge.read, changes
        elif all(live[group].any() for group in edge.written):
            yield edge.read, needed

    return _Step(edge.written, (edge.read,), needs)
