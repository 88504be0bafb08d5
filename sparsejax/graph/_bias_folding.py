"""Biases that absorb the constant units that a contraction reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from sparsejax.graph._constants import Constants, ConstantUnits
from sparsejax.graph._edges import ContractionEdge
from sparsejax.graph._graph import Graph
from sparsejax.graph._group_builder import DependencyGroups
from sparsejax.graph._passes import fixed_values
from sparsejax.graph.rules import RULES


class BiasFolding(NamedTuple):
    """The bias that can absorb the constant units of a contraction."""

    leaf: int
    """A parameter or a constant that is added to all units that the contraction writes."""
    sign: int
    """-1 if the leaf, or the contraction, is subtracted."""


def find_bias_foldings(graph: Graph, groups: DependencyGroups) -> dict[int, BiasFolding]:
    """Find the biases that follow contractions.

    Both the result of the contraction and the leaf must be read by nothing else. Biases in the
    bodies of scans absorb nothing.

    Args:
      graph: the graph.
      groups: its dependency groups.

    Returns:
      The bias of each contraction that has one, by the equation's number.
    """
    uses = graph.uses()
    leaf_of = _reshaped_leaves(graph, uses)
    reader = {value: equation for equation in graph.equations for value in equation.ins}
    found = {}
    for edge in groups.edges:
        if not isinstance(edge, ContractionEdge) or edge.equation >= len(graph.equations):
            continue
        (out,) = graph.equations[edge.equation].outs
        if uses[out] != 1 or out not in reader:
            continue
        after = reader[out]
        if after.name not in ("add", "sub"):
            continue
        other = after.ins[1] if after.ins[0] == out else after.ins[0]
        if other not in leaf_of or uses[other] != 1:
            continue
        leaf, axes = leaf_of[other]
        if axes == tuple(a for a in edge.contraction.result_axes if graph.shapes[out][a] != 1):
            found[edge.equation] = BiasFolding(leaf, 1 if after.name == "add" else -1)
    return found


def _reshaped_leaves(graph: Graph, uses: list[int]) -> dict[int, tuple[int, tuple[int, ...]]]:
    """Return values that are a leaf in another shape: the leaf, and where its dimensions are."""
    fixed = fixed_values(graph)
    leaf_of = {
        value: (value, tuple(axis for axis, n in enumerate(graph.shapes[value]) if n != 1))
        for value in [*graph.leaves, *graph.constants]
        if fixed[value] and jnp.issubdtype(graph.dtypes[value], jnp.number)
    }
    for equation in graph.equations:
        rule = RULES.get(equation.name)
        value = equation.ins[0] if equation.ins else -1
        if rule is None or rule.moved_axes is None or value not in leaf_of or uses[value] != 1:
            continue
        moved = rule.moved_axes(graph, equation, leaf_of[value][1])
        if moved is not None:
            leaf_of[equation.outs[0]] = leaf_of[value][0], moved
    return leaf_of


def removable_units(
    edge: ContractionEdge, constants: Constants, foldings: Mapping[int, BiasFolding]
) -> ConstantUnits:
    """Return the constant units that a contraction does not have to read.

    These are all constant units if a bias can absorb them, and the zeros otherwise. A convolution
    that pads reads zeros at the border, so that it cannot do without other constants. In groups, a
    unit is one of each group; what is constant in some of them is left to the weights.

    Args:
      edge: the contraction.
      constants: the constants of its graph.
      foldings: the biases of its graph, by the equation's number.

    Returns:
      Units of the dimension that is summed over, with the number that each puts out.
    """
    contraction, weights = edge.contraction, constants.weights[edge.equation]
    length = len(weights.nonzero)
    none = ConstantUnits(np.zeros(length, bool), np.zeros(length, weights.array.dtype))
    if contraction.groups > 1:
        return none
    units = constants.units.get(contraction.computed, {}).get(contraction.axis, none)
    foldable = edge.equation in foldings and not contraction.padded
    return units if foldable else units.zeros()
