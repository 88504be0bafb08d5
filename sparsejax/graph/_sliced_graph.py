"""The graph restricted to the units that are kept."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax import lax

from sparsejax.graph._graph import Equation, Graph, evaluate_equations
from sparsejax.graph._group_builder import DependencyGroups
from sparsejax.graph._indices import Indices

if TYPE_CHECKING:
    from sparsejax.graph._rule import Rule


def take(array: jax.Array, indices: np.ndarray, axis: int) -> jax.Array:
    """Return fixed indices of one dimension, by a slice where they are consecutive.

    Args:
      array: an array of any shape and dtype.
      indices: integers within the bounds of the dimension.
      axis: the dimension, counted from 0.

    Returns:
      The array with as many entries along ``axis`` as there are indices.
    """
    length = array.shape[axis]
    if len(indices) == length and (indices == np.arange(length)).all():
        return array
    if len(indices) and (np.diff(indices) == 1).all():
        return lax.slice_in_dim(array, int(indices[0]), int(indices[-1]) + 1, axis=axis)
    if len(indices) > 1 and (np.diff(indices) == -1).all():
        return lax.rev(take(array, indices[::-1], axis), (axis,))
    chosen = (slice(None),) * axis + (np.asarray(indices, np.int32),)
    return array.at[chosen].get(
        mode="promise_in_bounds",
        unique_indices=len(np.unique(indices)) == len(indices),
        indices_are_sorted=bool((np.diff(indices) > 0).all()),
    )


class SlicedGraph:
    """Kept units of the values of a graph, for rules that evaluate equations on them.

    Args:
      graph: the graph, with the shapes for the batch size of this call.
      groups: its dependency groups, which do not depend on the batch size.
      kept: for groups that lose units, the indices that are kept, in increasing order.
      indices: the fixed indices of gathers and dynamic slices.
      given: what is kept of the graph's leaves, constants and inputs, and its literals.
      rules: the rules by the name of their primitive.
    """

    def __init__(
        self,
        graph: Graph,
        groups: DependencyGroups,
        kept: Mapping[int, np.ndarray],
        indices: Indices,
        given: Mapping[int, Any],
        rules: Mapping[str, Rule],
    ):
        self.graph, self.groups, self.indices = graph, groups, indices
        self._kept, self._given, self._rules = kept, given, rules

    def run(
        self, equations: Sequence[Equation], operands: Mapping[int, Any], outs: Sequence[int]
    ) -> list[Any]:
        """Return what is kept of values that equations compute, also from further operands."""
        given = dict(self._given) | dict(operands)
        return evaluate_equations(equations, given, outs, self._apply)

    def _apply(self, equation: Equation, operands: Sequence[Any]) -> list[Any]:
        rule = self._rules.get(equation.name)
        if rule is None or (equation.body is None and self.is_whole(equation)):
            return equation.apply(operands)
        return rule.evaluate(self, equation, operands)

    def kept(self, value: int, axis: int) -> np.ndarray | None:
        """Return the indices of a dimension that are kept; None for all."""
        return self._kept.get(self.groups.of_values[value][axis])

    def shape(self, value: int) -> tuple[int, ...]:
        """Return the shape of what is kept of a value."""
        found = []
        for axis, length in enumerate(self.graph.shapes[value]):
            kept = self.kept(value, axis)
            found.append(length if kept is None else len(kept))
        return tuple(found)

    def is_whole(self, equation: Equation) -> bool:
        """Return whether all operands and results keep all of their units."""
        return all(
            self.kept(value, axis) is None
            for value in (*equation.ins, *equation.outs)
            for axis in range(len(self.graph.shapes[value]))
        )

    def take(self, value: int, operand: Any, axis: int, wanted: np.ndarray) -> Any:
        """Return the ``wanted`` units, as indices of the whole dimension, from what is kept."""
        source = self.kept(value, axis)
        return take(operand, wanted if source is None else np.searchsorted(source, wanted), axis)

    def merged(self, factors: Sequence[int]) -> np.ndarray:
        """Return the units of merged groups that remain if each group has lost its own."""
        lengths = [self.groups.sizes[group] for group in factors]
        left = [self._kept.get(g, np.arange(n)) for g, n in zip(factors, lengths, strict=True)]
        units = np.arange(math.prod(lengths)).reshape(lengths)
        return np.ravel(units[np.ix_(*left)])
