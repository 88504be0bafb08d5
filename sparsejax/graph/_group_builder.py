"""Dependency groups: dimensions that index the same units, and edges between groups.

Each dimension of each value belongs to a dependency group, whose units are kept or removed
together. An elementwise operation puts the dimensions of its operands into one group; a product
puts the summed dimensions of both factors into one. Reshapes, slices and contractions start new
groups with edges to the old ones. Dimensions that depend on the batch size are kept whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax.numpy as jnp
import numpy as np

from sparsejax.graph._contraction import Contraction
from sparsejax.graph._edges import (
    ContractionEdge,
    Edge,
    ProductEdge,
    ReductionEdge,
    ReshapeEdge,
    SliceEdge,
)
from sparsejax.graph._graph import Equation, Graph
from sparsejax.graph._indices import Indices
from sparsejax.graph._reshape import Regrouping

if TYPE_CHECKING:
    from sparsejax.graph._rule import Rule

Pair = tuple[Sequence[int], Sequence[int]]
"""Dimensions of the left and of the right factor of a product."""


class DependencyGroups(NamedTuple):
    """The dependency groups of a graph; a group is an integer."""

    of_values: list[tuple[int, ...]]
    """The groups of the dimensions of each value."""
    sizes: dict[int, int]
    """The number of units of each group."""
    whole: set[int]
    """Groups whose units are all kept: batches, positions in images, outputs."""
    unsupported: dict[int, int]
    """Groups that an equation reads in an unsupported way, and the number of that equation."""
    of_parameters: set[int]
    """Groups with a dimension of a parameter. Arrays of integers that no product reads, such as
    keys of random numbers, have no units."""
    edges: list[Edge]
    """In the order of the equations."""
    reshapes: dict[int, list[tuple[Regrouping, tuple[int, ...]]]]
    """By the number of a reshape's equation: its regroupings with the groups of their factors."""


class GroupBuilder:
    """Collects the dependency groups of a graph while rules visit its equations.

    Args:
      graph: the graph; values of parameters are not used.
      indices: the fixed indices of gathers and dynamic slices.
      contractions: the graph's contractions, by the equation's number.
      fixed: whether each value is computed from parameters and constants alone.
      rules: the rules by the name of their primitive.
    """

    def __init__(
        self,
        graph: Graph,
        indices: Indices,
        contractions: Mapping[int, Contraction],
        fixed: Sequence[bool],
        rules: Mapping[str, Rule],
    ):
        self.graph, self.indices, self.contractions = graph, indices, contractions
        self._fixed, self._rules = fixed, rules
        # Union-find: each dimension has a number, and a group is named by its smallest member.
        self._first = np.cumsum([0, *map(len, graph.shapes)]).tolist()
        self._parent = list(range(self._first[-1]))
        self._sizes = [length for shape in graph.shapes for length in shape]
        self._whole: set[int] = set()
        self._unsupported: dict[int, int] = {}
        self._edges: list[Edge] = []
        self._reshapes: dict[int, list[tuple[Regrouping, tuple[int, ...]]]] = {}

    def visit(self, equations: Iterable[Equation]) -> None:
        """Collect what the rules of equations say; one without a rule needs all units."""
        for equation in equations:
            if equation.name in self._rules:
                self._rules[equation.name].groups(self, equation)
            else:
                self.unsupported_equation(equation)

    def _find(self, member: int) -> int:
        while self._parent[member] != member:
            self._parent[member] = self._parent[self._parent[member]]
            member = self._parent[member]
        return member

    def _union(self, member: int, other: int) -> None:
        a, b = self._find(member), self._find(other)
        self._parent[max(a, b)] = min(a, b)

    def _new(self, size: int) -> int:
        """Return a new group without a dimension of a value."""
        self._parent.append(len(self._parent))
        self._sizes.append(size)
        return self._parent[-1]

    def same(self, value: int, axis: int, other: int, other_axis: int) -> None:
        """Put two dimensions into one group."""
        self._union(self._first[value] + axis, self._first[other] + other_axis)

    def same_pairs(
        self, value: int, axes: Iterable[int], out: int, out_axes: Iterable[int]
    ) -> None:
        """Put dimensions of two values into one group each, pair by pair."""
        for axis, out_axis in zip(axes, out_axes, strict=True):
            self.same(value, axis, out, out_axis)

    def same_lengths(self, value: int, out: int) -> None:
        """Put dimensions of equal length at equal positions together; others are broadcast."""
        lengths = self.graph.lengths(out)
        for axis, length in enumerate(self.graph.lengths(value)):
            if length == lengths[axis]:
                self.same(value, axis, out, axis)

    def is_fixed(self, value: int) -> bool:
        """Return whether a value is computed from parameters and constants alone."""
        return self._fixed[value]

    def keep_whole(self, value: int, axes: Iterable[int] | None = None) -> None:
        """Keep all units of some dimensions; of all dimensions by default."""
        axes = range(len(self.graph.shapes[value])) if axes is None else axes
        self._whole.update(self._members(value, axes))

    def unsupported(self, equation: Equation, value: int, axes: Iterable[int]) -> None:
        """Note that an equation reads dimensions in a way that no rule supports.

        What is computed from parameters alone needs all of their units, so these are kept.
        """
        if self._fixed[equation.outs[0]]:
            self.keep_whole(value, axes)
        else:
            for member in self._members(value, axes):
                self._unsupported.setdefault(member, equation.number)

    def unsupported_equation(self, equation: Equation) -> None:
        """Note that an equation needs all units of all of its operands and results."""
        for value in (*equation.ins, *equation.outs):
            self.unsupported(equation, value, range(len(self.graph.shapes[value])))

    def slice(
        self,
        reader: tuple[int, int],
        source: tuple[int, int],
        indices: Sequence[int] | np.ndarray,
        start: int = 0,
    ) -> None:
        """Connect dimension ``reader`` (value, axis), from ``start`` on, to indices of another."""
        if any(self.graph.varies(*dimension) for dimension in (reader, source)):
            for value, axis in (reader, source):  # the indices depend on the batch size
                self.keep_whole(value, [axis])
            return
        outer, inner = (self._first[value] + axis for value, axis in (reader, source))
        self._edges.append(SliceEdge(outer, start, inner, np.asarray(indices, np.int64)))

    def index(self, source: tuple[int, int], index: int) -> None:
        """Keep one unit of a dimension (value, axis), which the result does not have."""
        one = self._new(1)
        self._whole.add(one)
        member = self._first[source[0]] + source[1]
        self._edges.append(SliceEdge(one, 0, member, np.asarray([index])))

    def reshape(self, equation: Equation, regroupings: Sequence[Regrouping]) -> None:
        """Split the operand's dimensions into factors, and merge those of the result from them."""
        value, out = equation.ins[0], equation.outs[0]
        found: list[tuple[Regrouping, tuple[int, ...]]] = []
        rest = set(range(len(self.graph.shapes[value])))
        for regrouping in regroupings:
            rest -= set(regrouping.ins)
            if not regrouping.factors:
                self.unsupported(equation, value, regrouping.ins)
                self.unsupported(equation, out, regrouping.outs)
                continue
            factors = [self._new(length) for length, _ in regrouping.factors]
            for side, axes, of_axes in (
                (value, regrouping.ins, regrouping.in_factors),
                (out, regrouping.outs, regrouping.out_factors),
            ):
                for axis, indices in zip(axes, of_axes, strict=True):
                    merged = self._first[side] + axis
                    if len(indices) == 1:
                        self._union(merged, factors[indices[0]])
                    else:
                        parts = tuple(factors[index] for index in indices)
                        self._edges.append(ReshapeEdge(merged, parts, side == value))
            found.append((regrouping, tuple(factors)))
        self.keep_whole(value, rest)  # dimensions of length 1 that are dropped
        self._reshapes[equation.number] = found

    def contraction(self, equation: Equation, contraction: Contraction) -> None:
        """Connect the units that a contraction writes to those that it reads."""
        computed, weights, out = contraction.computed, contraction.weights, equation.outs[0]
        written = tuple(self._first[out] + axis for axis in contraction.result_axes)
        units = self._first[computed] + contraction.axis
        read = self._first[weights] + contraction.read
        if contraction.groups > 1:
            group = self._new(contraction.groups)
            self._split(units, group, read)
            self._split(written[0], group, self._new(self._sizes[written[0]] // contraction.groups))
        else:
            self._union(units, read)
        self._edges.append(ContractionEdge(equation.number, contraction, read, written))

    def _split(self, merged: int, group: int, inner: int) -> None:
        """Split a dimension into groups and units of each, of which the same are kept in all."""
        if self._sizes[inner] == 1:
            self._union(merged, group)
        else:
            self._edges.append(ReshapeEdge(merged, (group, inner), True))

    def product(self, equation: Equation, summed: Pair, batch: Pair, free: Pair) -> None:
        """Connect the units of a result to those of both factors, given (left, right) dimensions.

        The result has the dimensions ``batch``, and then the ``free`` ones of both factors.
        """
        left, right = equation.ins
        self.same_pairs(left, summed[0], right, summed[1])
        self._edges.append(
            ProductEdge(
                equation.number,
                self._members(left, summed[0]),
                self._members(left, batch[0]),
                self._members(left, free[0]),
                self._members(right, free[1]),
            )
        )

    def reduction(self, equation: Equation, axes: Iterable[int]) -> None:
        """Connect the units of the results to those of dimensions that are reduced."""
        (value, *_), (out, *_) = equation.ins, equation.outs
        written = self._members(out, range(len(self.graph.shapes[out])))
        for axis in axes:
            (read,) = self._members(value, [axis])
            self._edges.append(ReductionEdge(equation.number, int(axis), read, written))

    def _members(self, value: int, axes: Iterable[int]) -> tuple[int, ...]:
        return tuple(self._first[value] + axis for axis in axes)

    def result(self) -> DependencyGroups:
        """Return the groups that were collected."""
        find, graph = self._find, self.graph
        unsupported: dict[int, int] = {}
        for member, number in self._unsupported.items():
            unsupported.setdefault(find(member), number)
        edges = [self._named(edge) for edge in self._edges]
        of_values = [
            tuple(find(first + axis) for axis in range(len(shape)))
            for first, shape in zip(self._first, graph.shapes, strict=False)
        ]
        of_parameters = {
            group
            for value in [*graph.leaves, *graph.constants]
            if jnp.issubdtype(graph.dtypes[value], jnp.inexact)
            for group in of_values[value]
        }
        for edge in edges:
            if isinstance(edge, ContractionEdge):
                of_parameters |= {edge.read, *edge.written}
        return DependencyGroups(
            of_values,
            {m: size for m, size in enumerate(self._sizes) if find(m) == m},
            {find(member) for member in self._whole},
            unsupported,
            of_parameters,
            edges,
            {
                number: [(one, tuple(map(find, factors))) for one, factors in regroupings]
                for number, regroupings in self._reshapes.items()
            },
        )

    def _named(self, edge: Edge) -> Edge:
        """Return an edge with the names of groups in place of their members."""
        find = self._find
        if isinstance(edge, SliceEdge):
            return edge._replace(reader=find(edge.reader), source=find(edge.source))
        if isinstance(edge, ReshapeEdge):
            factors = tuple(map(find, edge.factors))
            return edge._replace(merged=find(edge.merged), factors=factors)
        if isinstance(edge, ProductEdge):
            return edge._replace(
                read=tuple(map(find, edge.read)),
                batch=tuple(map(find, edge.batch)),
                left=tuple(map(find, edge.left)),
                right=tuple(map(find, edge.right)),
            )
        return edge._replace(read=find(edge.read), written=tuple(map(find, edge.written)))
