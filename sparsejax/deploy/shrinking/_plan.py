"""The plan of `shrink`: the analysis of one graph, and of two that share their parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from sparsejax.graph import (
    BatchTrace,
    BiasFolding,
    Constants,
    ContractionEdge,
    DependencyGroups,
    Graph,
    Indices,
    constant_contribution,
    find_bias_foldings,
    find_constants,
    find_groups,
    find_live,
    narrow,
    nearest_leaf,
    removable_units,
    widest,
)

Needed = Mapping[int, Sequence[np.ndarray | None]]
"""For the leaves of the parameters by their place: the indices of each dimension that must be kept;
None for all."""


class Plan(NamedTuple):
    """The units of a graph that are kept."""

    groups: DependencyGroups
    """Its dependency groups."""
    kept: dict[int, np.ndarray]
    """For groups that lose units, the indices that are kept, in increasing order."""
    indices: Indices
    """The fixed indices of its gathers and dynamic slices."""
    folded: dict[int, np.ndarray]
    """What the constants of removed units add to each leaf, in its shape."""
    refused: set[int]
    """Groups that are read in an unsupported way."""


def make_plan(
    graph: Graph, leaves: Sequence[Any], batches: Iterable[int], needed: Needed | None = None
) -> Plan:
    """Return what is kept of a graph.

    Args:
      graph: the graph.
      leaves: the arrays of its parameters.
      batches: inputs whose first dimension is the batch.
      needed: what must be kept in any case.
    """
    constants = find_constants(graph, leaves)
    groups = find_groups(graph, constants.indices, batches)
    refused = (groups.unsupported.keys() & groups.of_parameters) - groups.whole
    foldings = find_bias_foldings(graph, groups)
    masks: dict[int, np.ndarray] = {}
    for place, by_axis in (needed or {}).items():
        for group, indices in zip(groups.of_values[graph.leaves[place]], by_axis, strict=True):
            mask = masks.setdefault(group, np.zeros(groups.sizes[group], bool))
            mask[slice(None) if indices is None else indices] = True
    live = find_live(groups, constants, foldings, at_least_one=True, needed=masks)
    kept = {group: np.flatnonzero(mask) for group, mask in live.items() if not mask.all()}
    folded = _folded_constants(graph, groups, constants, foldings, live)
    return Plan(groups, kept, constants.indices, folded, refused)


def agree(plan: Plan, traced: BatchTrace, leaves: Sequence[Any]) -> tuple[Plan, Plan | None]:
    """Return plans that keep the same of all parameters, for any batch and for a batch of one.

    Args:
      plan: the plan for any batch.
      traced: the function; ``single`` is not None.
      leaves: the arrays of its parameters.

    Returns:
      The plan for any batch, which may keep more than before, and that for a batch of one; None if
      there is none that keeps, and adds to biases, the same.
    """
    one = traced.single
    assert one is not None
    needed = _needed(traced.graph, plan)
    single = make_plan(one.graph, leaves, one.batches, needed)
    if single.refused - plan.refused and not plan.refused:
        return plan, None
    wider = plan
    if not _same(needed, _needed(one.graph, single)):
        wider = make_plan(traced.graph, leaves, traced.batches, _needed(one.graph, single))
        if not _same(_needed(traced.graph, wider), _needed(one.graph, single)):
            return plan, None
    for value, other in zip(traced.graph.leaves, one.graph.leaves, strict=True):
        here, there = wider.folded.get(value), single.folded.get(other)
        if (here is None) != (there is None):
            return plan, None
        if here is not None and there is not None and not np.array_equal(here, there):
            return plan, None
    return wider, single


def _needed(graph: Graph, plan: Plan) -> Needed:
    return {
        place: [plan.kept.get(group) for group in plan.groups.of_values[value]]
        for place, value in enumerate(graph.leaves)
    }


def _same(one: Needed, other: Needed) -> bool:
    return all(
        (a is None and b is None) or (a is not None and b is not None and np.array_equal(a, b))
        for place in one
        for a, b in zip(one[place], other[place], strict=True)
    )


def refusal(graph: Graph, groups: DependencyGroups, refused: set[int], names: Sequence[str]) -> str:
    """Return the message that names each unsupported operation once, with all of its sites."""
    sites: dict[str, dict[str, None]] = {}
    equations = graph.every_equation()
    for number in sorted({groups.unsupported[group] for group in refused}):
        equation = equations[number]
        sizes = [
            groups.sizes[group]
            for value in (*equation.ins, *equation.outs)
            for group in groups.of_values[value]
            if group in refused
        ]
        site = f"over {sizes[0]} units {nearest_leaf(graph, number, names)}".strip()
        sites.setdefault(equation.name, {})[site] = None
    reasons = [f"{name} ({'; '.join(found)})" for name, found in sorted(sites.items())]
    return (
        f"function reads units in ways that shrink does not understand: {', '.join(reasons)}; "
        "keep_unsupported=True keeps all of those units and shrinks the rest"
    )


def _folded_constants(
    graph: Graph,
    groups: DependencyGroups,
    constants: Constants,
    foldings: Mapping[int, BiasFolding],
    live: Mapping[int, np.ndarray],
) -> dict[int, np.ndarray]:
    """Return what the constants of removed units add to each leaf, in its shape."""
    folded: dict[int, np.ndarray] = {}
    for edge in groups.edges:
        if not isinstance(edge, ContractionEdge) or edge.equation not in foldings:
            continue
        units, (leaf, sign) = removable_units(edge, constants, foldings), foldings[edge.equation]
        removed = units.mask & ~live[edge.read]
        amount = constant_contribution(constants.weights[edge.equation], removed, units.numbers)
        if amount.any():
            amount = amount.reshape(graph.shapes[leaf])
            folded[leaf] = amount if sign > 0 else np.negative(amount)
    return folded


def cut(
    array: Any,
    groups: Sequence[int],
    kept: Mapping[int, np.ndarray],
    folded: np.ndarray | None,
) -> Any:
    """Return a leaf with constants added to it, without the units that are removed."""
    chosen = [kept.get(group) for group in groups]
    if folded is None and all(indices is None for indices in chosen):
        return array
    whole = np.asarray(array)
    if folded is not None:
        whole = narrow(whole.astype(widest(whole.dtype)) + folded, whole.dtype)
    # The dimension that loses the largest share first, so that intermediate arrays are small.
    share = [1.0 if c is None else len(c) / n for c, n in zip(chosen, whole.shape, strict=True)]
    for axis in sorted(range(whole.ndim), key=share.__getitem__):
        if (indices := chosen[axis]) is not None:
            whole = np.take(whole, indices, axis=axis)
    return jnp.asarray(whole)
