"""Passes over a graph: each asks the rule of each equation's primitive."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax

from sparsejax.graph._constant_finder import ConstantFinder
from sparsejax.graph._constants import Constants
from sparsejax.graph._contraction import Contraction
from sparsejax.graph._graph import Equation, Graph
from sparsejax.graph._group_builder import DependencyGroups, GroupBuilder
from sparsejax.graph._indices import Indices
from sparsejax.graph._onnx_builder import OnnxBuilder
from sparsejax.graph._sliced_graph import SlicedGraph
from sparsejax.graph.rules import RULES

ELEMENTWISE = frozenset(name for name, rule in RULES.items() if rule.elementwise)
"""The names of the elementwise primitives."""


def fixed_values(graph: Graph) -> list[bool]:
    """Return which values are computed from parameters and constants alone, by supported rules.

    They are the same for every batch size: values that depend on it are not fixed.

    Args:
      graph: the graph.

    Returns:
      One bool for each value.
    """
    fixed = [False] * len(graph.shapes)
    for value in [*graph.leaves, *graph.constants, *graph.literals]:
        is_key = jax.dtypes.issubdtype(graph.dtypes[value], jax.dtypes.extended)
        fixed[value] = not is_key and value not in graph.batch_dependent
    _mark_fixed(graph, graph.equations, fixed)
    return fixed


def _mark_fixed(graph: Graph, equations: Sequence[Equation], fixed: list[bool]) -> None:
    for equation in equations:
        rule = RULES.get(equation.name)
        known = rule is not None and all(fixed[value] for value in equation.ins)
        if known and rule is not None and not rule.per_example:
            known = not any(map(graph.varying, (*equation.ins, *equation.outs)))
        for value in equation.outs:
            fixed[value] = known
        if equation.body is not None:
            carry = equation.carry()
            for place, (outer, inner) in enumerate(
                zip(equation.ins, equation.body.ins, strict=True)
            ):
                fixed[inner] = fixed[outer] and place not in carry
            _mark_fixed(graph, equation.body.equations, fixed)


def find_contractions(graph: Graph) -> dict[int, Contraction]:
    """Find the products of computed values with known weights.

    Args:
      graph: the graph.

    Returns:
      The contractions by the equation's number, those in the bodies of scans among them.
    """
    fixed = fixed_values(graph)
    found = {}
    for equation in graph.every_equation():
        rule = RULES.get(equation.name)
        if rule is not None and rule.contraction is not None:
            left, right = (fixed[value] and not graph.varying(value) for value in equation.ins)
            contraction = rule.contraction(graph, equation, (left, right))
            if contraction is not None:
                found[equation.number] = contraction
    return found


def find_constants(graph: Graph, leaves: Sequence[Any]) -> Constants:
    """Return constant units, weights of contractions and fixed indices.

    Args:
      graph: the graph.
      leaves: the arrays of its parameters.

    Returns:
      The constants; they hold for every batch size.
    """
    finder = ConstantFinder(graph, leaves, fixed_values(graph), find_contractions(graph), RULES)
    finder.visit(graph.equations)
    return finder.result()


def find_groups(graph: Graph, indices: Indices, batched: Iterable[int] = ()) -> DependencyGroups:
    """Return the dependency groups of a graph.

    Args:
      graph: the graph; values of its parameters are not used.
      indices: the fixed indices that `find_constants` found.
      batched: inputs whose first dimension is the batch and is kept whole, even if the graph was
        traced for one batch size.

    Returns:
      The groups, and the edges between them in the order of the equations.
    """
    fixed = fixed_values(graph)
    builder = GroupBuilder(graph, indices, find_contractions(graph), fixed, RULES)
    for value in range(len(graph.shapes)):
        builder.keep_whole(value, graph.varying(value))
    for value in batched:
        builder.keep_whole(value, [0])
    builder.visit(graph.equations)
    for value in graph.outputs:
        builder.keep_whole(value)
    uses = graph.uses()
    for value in [*graph.leaves, *graph.constants]:
        if not uses[value]:
            builder.keep_whole(value)
    return builder.result()


def evaluate(
    graph: Graph,
    groups: DependencyGroups,
    kept: Mapping[int, Any],
    indices: Indices,
    arrays: Mapping[int, Any],
) -> list[jax.Array]:
    """Compute the outputs of a graph on the units that are kept.

    Args:
      graph: the graph, with the shapes for the batch size of this call.
      groups: its dependency groups, which do not depend on the batch size.
      kept: for groups that lose units, the indices that are kept, in increasing order.
      indices: the fixed indices that `find_constants` found.
      arrays: what is kept of the graph's leaves, constants and inputs.

    Returns:
      The leaves of the outputs.
    """
    given = dict(graph.literals) | dict(arrays)
    sliced = SlicedGraph(graph, groups, kept, indices, given, RULES)
    return sliced.run(graph.equations, {}, graph.outputs)


def write_onnx(builder: OnnxBuilder) -> None:
    """Append the nodes that compute all values that are not known.

    Args:
      builder: holds the graph, and takes the nodes.

    Raises:
      ValueError: a primitive has no ONNX form, or the form that is used has none.
    """
    builder.visit(builder.graph.equations)
