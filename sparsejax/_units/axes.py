"""Which dimensions of which values are the same units, and what ties units to one another.

Every dimension of every value belongs to a family. An elementwise operation puts the dimensions of
its operands into one family, a product puts the summed dimensions of both factors into one, and so
on; the units of a family stay or go together. Joining, splitting, cutting and concatenating make
new families, tied to the old ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from sparsejax._units.graph import Equation, Graph, reshape_groups
from sparsejax._units.primitives import (
    ELEMENTWISE,
    PRODUCTS,
    REDUCTIONS,
    WINDOWS,
    Contraction,
    contraction_of,
    fixed_values,
    taken_axis,
    through_windows,
    written_axes,
)


class Parts(NamedTuple):
    """Units of one family that are units of others: ``whole[start + k]`` is ``part[places[k]]``."""

    whole: int
    start: int
    part: int
    places: np.ndarray


class Joined(NamedTuple):
    """A family whose units are the tuples of units of others, the last one's counted fastest."""

    whole: int
    factors: tuple[int, ...]
    exact: bool
    """Whether the units that stay must be all tuples (a dimension that is split)."""


class Read(NamedTuple):
    """A contraction: units that are read, and what is written from them."""

    equation: int
    contraction: Contraction
    read: int
    written: tuple[int, ...]


class Axes(NamedTuple):
    """The families of a graph; a family is named by a number."""

    families: list[tuple[int, ...]]
    """Of the dimensions of each value."""
    sizes: dict[int, int]
    """Units of each family."""
    whole: set[int]
    """Families of which every unit stays: batches, positions in images, outputs."""
    mixed: dict[int, str]
    """Families that an operation reads in a way that is not understood, and its name."""
    of_parameters: set[int]
    """Families with a dimension of a parameter."""
    ties: list[Parts | Joined | Read]
    """In the order of the equations."""


def find_axes(graph: Graph, indices: Mapping[int, np.ndarray]) -> Axes:
    """The families of a graph.

    Args:
      graph: what is looked at; the values of its parameters play no part.
      indices: of equations that take fixed places of a dimension: the places.
    """
    finder = _Finder(graph, indices)
    for value in graph.inputs:
        finder.keep_whole(value, [0] if graph.shapes[value] else [])
    for number, equation in enumerate(graph.equations):
        finder.visit(number, equation)
    for value in graph.outputs:
        finder.keep_whole(value)
    uses = graph.uses()
    for value in [*graph.leaves, *graph.constants]:
        if not uses[value]:
            finder.keep_whole(value)
    return finder.result()


class _Finder:
    def __init__(self, graph: Graph, indices: Mapping[int, np.ndarray]):
        self.graph = graph
        self.indices = indices
        self.fixed = fixed_values(graph)
        # A dimension's number is its place among all; a family is named by its smallest member.
        self.first = np.cumsum([0, *map(len, graph.shapes)]).tolist()
        self.parent = list(range(self.first[-1]))
        self.whole: set[int] = set()
        self.mixed: dict[int, str] = {}
        self.ties: list[Parts | Joined | Read] = []

    def find(self, member: int) -> int:
        while self.parent[member] != member:
            self.parent[member] = self.parent[self.parent[member]]
            member = self.parent[member]
        return member

    def same(self, value: int, axis: int, other: int, other_axis: int) -> None:
        a, b = self.find(self.first[value] + axis), self.find(self.first[other] + other_axis)
        self.parent[max(a, b)] = min(a, b)

    def keep_whole(self, value: int, axes: list[int] | None = None) -> None:
        chosen = range(len(self.graph.shapes[value])) if axes is None else axes
        self.whole |= {self.first[value] + axis for axis in chosen}

    def mix(self, equation: Equation, value: int, axes: list[int] | None = None) -> None:
        chosen = range(len(self.graph.shapes[value])) if axes is None else axes
        for axis in chosen:
            self.mixed.setdefault(self.first[value] + axis, equation.name)

    def visit(self, number: int, equation: Equation) -> None:
        name = equation.name
        if name in ELEMENTWISE:
            self.elementwise(equation)
        elif name == "optimization_barrier":
            for value, out in zip(equation.ins, equation.outs, strict=True):
                self.all_same(value, out)
        elif name in REDUCTIONS:
            self.reduction(equation)
        elif name in WINDOWS:
            self.windows(equation)
        elif name in PRODUCTS:
            self.product(number, equation)
        elif name == "gather":
            self.gather(number, equation)
        else:
            getattr(self, name, self.opaque)(equation)

    def opaque(self, equation: Equation) -> None:
        """Whatever it is, it is computed as it was, from all of its operands."""
        for value in (*equation.ins, *equation.outs):
            self.mix(equation, value)

    def all_same(self, value: int, out: int) -> None:
        for axis, length in enumerate(self.graph.shapes[value]):
            if length == self.graph.shapes[out][axis]:  # else it is 1, and broadcast
                self.same(value, axis, out, axis)

    def elementwise(self, equation: Equation) -> None:
        for value in equation.ins:
            self.all_same(value, equation.outs[0])

    def transpose(self, equation: Equation) -> None:
        for axis, source in enumerate(equation.params["permutation"]):
            self.same(equation.ins[0], source, equation.outs[0], axis)

    def broadcast_in_dim(self, equation: Equation) -> None:
        value, out = equation.ins[0], equation.outs[0]
        for axis, place in enumerate(equation.params["broadcast_dimensions"]):
            if self.graph.shapes[value][axis] == self.graph.shapes[out][place]:
                self.same(value, axis, out, place)

    def reshape(self, equation: Equation) -> None:
        value, out = equation.ins[0], equation.outs[0]
        if equation.params.get("dimensions") is not None:
            return self.opaque(equation)
        for ins, outs in reshape_groups(self.graph.shapes[value], self.graph.shapes[out]):
            if len(ins) == len(outs) == 1:
                self.same(value, ins[0], out, outs[0])
            elif len(outs) == 1:
                factors = tuple(self.first[value] + axis for axis in ins)
                self.ties.append(Joined(self.first[out] + outs[0], factors, False))
            elif len(ins) == 1:
                factors = tuple(self.first[out] + axis for axis in outs)
                self.ties.append(Joined(self.first[value] + ins[0], factors, True))
            else:
                self.mix(equation, value, list(ins))
                self.mix(equation, out, list(outs))
        return None

    def squeeze(self, equation: Equation) -> None:
        self.reshape(equation)

    def expand_dims(self, equation: Equation) -> None:
        self.reshape(equation)

    def reduction(self, equation: Equation) -> None:
        value, out = equation.ins[0], equation.outs[0]
        reduced = equation.params["axes"]
        self.mix(equation, value, list(reduced))
        left = [axis for axis in range(len(self.graph.shapes[value])) if axis not in reduced]
        for place, axis in enumerate(left):
            self.same(value, axis, out, place)

    def windows(self, equation: Equation) -> None:
        value, out = equation.ins[0], equation.outs[0]
        for axis in range(len(self.graph.shapes[value])):
            if through_windows(equation, axis):
                self.same(value, axis, out, axis)
            else:
                self.keep_whole(value, [axis])
                self.keep_whole(out, [axis])

    def product(self, number: int, equation: Equation) -> None:
        contraction = contraction_of(self.graph, equation, self.fixed)
        out = equation.outs[0]
        if equation.name == "dot_general":
            self.dot_axes(equation, contraction)
        else:
            self.convolution_axes(equation, contraction)
        if contraction is not None:
            computed, weights = contraction.computed, contraction.weights
            self.same(computed, contraction.axis, weights, contraction.read)
            places = written_axes(self.graph, equation, contraction)
            written = tuple(self.first[out] + axis for axis in places)
            read = self.first[computed] + contraction.axis
            self.ties.append(Read(number, contraction, read, written))

    def dot_axes(self, equation: Equation, contraction: Contraction | None) -> None:
        (left, right), out = equation.ins, equation.outs[0]
        summed, batch = equation.params["dimension_numbers"]
        if contraction is None:
            for value, axes in zip((left, right), summed, strict=True):
                self.mix(equation, value, list(axes))
        place = 0
        for axis, other in zip(*batch, strict=True):
            self.same(left, axis, out, place)
            self.same(right, other, out, place)
            place += 1
        for value, used in ((left, (*summed[0], *batch[0])), (right, (*summed[1], *batch[1]))):
            for axis in range(len(self.graph.shapes[value])):
                if axis not in used:
                    self.same(value, axis, out, place)
                    place += 1

    def convolution_axes(self, equation: Equation, contraction: Contraction | None) -> None:
        (left, right), out = equation.ins, equation.outs[0]
        lhs, rhs, result = equation.params["dimension_numbers"]
        for value, axes in ((left, lhs[2:]), (right, rhs[2:]), (out, result[2:])):
            self.keep_whole(value, list(axes))
        if contraction is None:
            for value, axes in ((left, lhs[:2]), (right, rhs[:2]), (out, result[:2])):
                self.mix(equation, value, list(axes))
        else:
            self.same(left, lhs[0], out, result[0])
            self.same(right, rhs[0], out, result[1])

    def part(self, whole: tuple[int, int], start: int, part: tuple[int, int], places) -> None:
        """Units of dimension ``whole`` are ``places`` of dimension ``part`` (value, axis)."""
        outer, inner = (self.first[value] + axis for value, axis in (whole, part))
        self.ties.append(Parts(outer, start, inner, np.asarray(places)))

    def gather(self, number: int, equation: Equation) -> None:
        axes = taken_axis(self.graph, equation, self.fixed)
        if axes is None or number not in self.indices:
            return self.opaque(equation)
        value, out = equation.ins[0], equation.outs[0]
        left = [axis for axis in range(len(self.graph.shapes[value])) if axis != axes[0]]
        kept = [axis for axis in range(len(self.graph.shapes[value])) if axis != axes[1]]
        for axis, place in zip(left, kept, strict=True):
            self.same(value, axis, out, place)
        self.part((out, axes[1]), 0, (value, axes[0]), self.indices[number])
        return self.keep_whole(equation.ins[1])

    def concatenate(self, equation: Equation) -> None:
        out, chosen = equation.outs[0], equation.params["dimension"]
        start = 0
        for value in equation.ins:
            for axis, length in enumerate(self.graph.shapes[value]):
                if axis != chosen:
                    self.same(value, axis, out, axis)
                else:
                    self.part((out, axis), start, (value, axis), range(length))
                    start += length

    def slice(self, equation: Equation) -> None:
        value, out = equation.ins[0], equation.outs[0]
        for axis, (before, after) in enumerate(
            zip(self.graph.shapes[value], self.graph.shapes[out], strict=True)
        ):
            if before == after:
                self.same(value, axis, out, axis)
            else:
                start = equation.params["start_indices"][axis]
                step = (equation.params["strides"] or (1,) * (axis + 1))[axis]
                places = start + step * np.arange(after)
                self.part((out, axis), 0, (value, axis), places)

    def split(self, equation: Equation) -> None:
        value, chosen = equation.ins[0], equation.params["axis"]
        start = 0
        for out, size in zip(equation.outs, equation.params["sizes"], strict=True):
            for axis in range(len(self.graph.shapes[value])):
                if axis != chosen:
                    self.same(value, axis, out, axis)
            self.part((out, chosen), 0, (value, chosen), start + np.arange(size))
            start += size

    def pad(self, equation: Equation) -> None:
        value, out = equation.ins[0], equation.outs[0]
        config = equation.params["padding_config"]
        if any(low < 0 or high < 0 or inside for low, high, inside in config):
            return self.opaque(equation)
        for axis, (low, high, _) in enumerate(config):
            if low or high:
                length = self.graph.shapes[value][axis]
                self.part((out, axis), int(low), (value, axis), range(length))
            else:
                self.same(value, axis, out, axis)
        return None

    def result(self) -> Axes:
        lengths = [length for shape in self.graph.shapes for length in shape]
        mixed: dict[int, str] = {}
        for member, name in self.mixed.items():
            mixed.setdefault(self.find(member), name)
        return Axes(
            [
                tuple(self.find(first + axis) for axis in range(len(shape)))
                for first, shape in zip(self.first, self.graph.shapes, strict=False)
            ],
            {m: lengths[m] for m in range(len(lengths)) if self.find(m) == m},
            {self.find(member) for member in self.whole},
            mixed,
            {
                self.find(self.first[value] + axis)
                for value in [*self.graph.leaves, *self.graph.constants]
                for axis in range(len(self.graph.shapes[value]))
            },
            [self._named(tie) for tie in self.ties],
        )

    def _named(self, tie: Parts | Joined | Read) -> Parts | Joined | Read:
        find = self.find
        if isinstance(tie, Parts):
            return tie._replace(whole=find(tie.whole), part=find(tie.part))
        if isinstance(tie, Joined):
            factors = tuple(map(find, tie.factors))
            return tie._replace(whole=find(tie.whole), factors=factors)
        return tie._replace(read=find(tie.read), written=tuple(map(find, tie.written)))
