"""The fewest units from which all outputs can be computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from sparsejax.graph._bias_folding import BiasFolding, removable_units
from sparsejax.graph._constant_finder import Constants
from sparsejax.graph._group_builder import (
    ContractionEdge,
    DependencyGroups,
    Edge,
    ReshapeEdge,
    SliceEdge,
)

Live = dict[int, np.ndarray]
"""Masks of the units that are kept, by dependency group."""

Links = dict[int, tuple[np.ndarray, np.ndarray]]
"""For contractions, by the equation's number: where weights are not zero, and which units cannot be
folded into a bias."""


def find_live(
    groups: DependencyGroups,
    constants: Constants,
    foldings: Mapping[int, BiasFolding],
    at_least_one: bool,
) -> Live:
    """Return masks of the units that are kept, by dependency group.

    Units of whole groups are kept, and so is what kept units are computed from: the least fixed
    point of all edges.

    Args:
      groups: the dependency groups of a graph.
      constants: its constants.
      foldings: the biases that absorb constant units.
      at_least_one: whether each group keeps one unit at least.

    Returns:
      A mask for each group, true where a unit is kept.
    """
    whole = groups.whole | groups.unsupported.keys()
    live = {group: np.full(size, group in whole, bool) for group, size in groups.sizes.items()}
    links: Links = {}
    last: dict[int, int] = {}
    for position, edge in enumerate(groups.edges):
        if isinstance(edge, ContractionEdge):
            needed = ~removable_units(edge, constants, foldings).mask
            nonzero = constants.weights[edge.equation].nonzero
            links[edge.equation] = nonzero, needed
            last |= dict.fromkeys((edge.read, *edge.written), position)
    _to_fixed_point(live, groups.edges, links)
    if not at_least_one:
        return live
    # The last empty group gets a unit first: what that unit reads is kept, too.
    while empty := [group for group, mask in live.items() if len(mask) and not mask.any()]:
        live[max(empty, key=lambda group: (last.get(group, -1), group))][0] = True
        _to_fixed_point(live, groups.edges, links)
    return live


def _to_fixed_point(live: Live, edges: Sequence[Edge], links: Links) -> None:
    """Keep what kept units are computed from, until nothing is added."""
    changed = True
    while changed:
        changed = False
        for edge in reversed(edges):
            if isinstance(edge, ContractionEdge):
                nonzero, needed = links[edge.equation]
                mask = _is_read(nonzero, edge, live) & needed
                changed |= _require(live, edge.read, mask)
            elif isinstance(edge, SliceEdge):
                here = live[edge.reader][edge.start : edge.start + len(edge.indices)]
                mask = np.zeros_like(live[edge.source])
                mask[edge.indices[here]] = True
                changed |= _require(live, edge.source, mask)
            else:
                changed |= _require_tuples(live, edge)


def _require(live: Live, group: int, mask: np.ndarray) -> bool:
    """Keep units of a group; return whether they are more than before."""
    more = bool((mask & ~live[group]).any())
    if more:
        live[group] |= mask
    return more


def _is_read(nonzero: np.ndarray, edge: ContractionEdge, live: Live) -> np.ndarray:
    """Return which units have a weight to a unit that is kept."""
    for group in reversed(edge.written):
        mask = live[group]
        nonzero = np.any(nonzero if mask.all() else nonzero[..., mask], axis=-1)
    return nonzero


def _require_tuples(live: Live, edge: ReshapeEdge) -> bool:
    """Keep the factors of kept tuples, and all tuples of a grid; return whether any is new."""
    lengths = [len(live[factor]) for factor in edge.factors]
    tuples = live[edge.merged].reshape(lengths)
    changed = False
    for axis, factor in enumerate(edge.factors):
        others = tuple(other for other in range(len(lengths)) if other != axis)
        changed |= _require(live, factor, np.logical_or.reduce(tuples, axis=others))
    if edge.grid:
        whole = np.zeros(lengths, bool)
        whole[np.ix_(*(live[factor] for factor in edge.factors))] = True
        changed |= _require(live, edge.merged, whole.ravel())
    return changed
