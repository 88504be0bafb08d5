"""Which dimensions of which values are the same units, and what ties units to one another.

Every dimension of every value belongs to a family. An elementwise operation puts the dimensions of
its operands into one family, a product puts the summed dimensions of both factors into one, and so
on; the units of a family stay or go together. Joining, splitting, cutting and concatenating make
new families, tied to the old ones. Dimensions that depend on the batch size stay whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from sparsejax.graph._constants import Indices
from sparsejax.graph._graph import Equation, Graph
from sparsejax.graph._primitives import (
    ELEMENTWISE,
    PARTS,
    PRODUCTS,
    REDUCTIONS,
    SHAPES,
    WINDOWS,
    Contraction,
    Window,
    contraction_of,
    fixed_values,
    taken_axis,
    through_windows,
    written_axes,
)
from sparsejax.graph._reshape import Group, exact_groups, reshape_groups


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
    mixed: dict[int, int]
    """Families that an equation reads in a way that is not understood, and its place."""
    of_parameters: set[int]
    """Families with a dimension of a parameter. Arrays of integers that no product reads, such as
    keys of random numbers, have no units."""
    ties: list[Parts | Joined | Read]
    """In the order of the equations."""
    reshapes: dict[int, list[tuple[Group, tuple[int, ...]]]]
    """By the equation's place: how a reshape splits and joins, with the families of the factors."""


def find_axes(graph: Graph, indices: Indices, batched: Iterable[int] = ()) -> Axes:
    """The families of a graph.

    Args:
      graph: what is looked at; the values of its parameters play no part.
      indices: of equations that take fixed places: the places.
      batched: inputs whose first dimension is the batch and stays whole, whether or not it is known
        to vary.
    """
    finder = _Finder(graph, indices)
    for value in range(len(graph.shapes)):
        finder.keep_whole(value, graph.varying(value))
    for value in batched:
        finder.keep_whole(value, [0])
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
    def __init__(self, graph: Graph, indices: Indices):
        self.graph = graph
        self.indices = indices
        self.fixed = fixed_values(graph)
        # A dimension's number is its place among all; a family is named by its smallest member.
        self.first = np.cumsum([0, *map(len, graph.shapes)]).tolist()
        self.parent = list(range(self.first[-1]))
        self.sizes = [length for shape in graph.shapes for length in shape]
        self.whole: set[int] = set()
        self.mixed: dict[int, int] = {}
        self.ties: list[Parts | Joined | Read] = []
        self.reshapes: dict[int, list[tuple[Group, tuple[int, ...]]]] = {}
        self.number = 0
        """The place of the equation that is visited."""

    def find(self, member: int) -> int:
        while self.parent[member] != member:
            self.parent[member] = self.parent[self.parent[member]]
            member = self.parent[member]
        return member

    def same(self, value: int, axis: int, other: int, other_axis: int) -> None:
        self.join(self.first[value] + axis, self.first[other] + other_axis)

    def join(self, member: int, other: int) -> None:
        a, b = self.find(member), self.find(other)
        self.parent[max(a, b)] = min(a, b)

    def new(self, size: int) -> int:
        """A dimension of no value."""
        self.parent.append(len(self.parent))
        self.sizes.append(size)
        return self.parent[-1]

    def keep_whole(self, value: int, axes: list[int] | None = None) -> None:
        chosen = range(len(self.graph.shapes[value])) if axes is None else axes
        self.whole |= {self.first[value] + axis for axis in chosen}

    def mix(self, value: int, axes: Sequence[int] | None = None) -> None:
        chosen = range(len(self.graph.shapes[value])) if axes is None else axes
        for axis in chosen:
            self.mixed.setdefault(self.first[value] + axis, self.number)

    def visit(self, number: int, equation: Equation) -> None:
        self.number, name = number, equation.name
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
        elif name in ("gather", "dynamic_slice"):
            self.taken(equation)
        elif name in SHAPES | PARTS:
            getattr(self, name)(equation)
        elif name != "iota":  # numbers for each place: those of the units that stay
            self.opaque(equation)

    def opaque(self, equation: Equation) -> None:
        """Whatever it is, it is computed as it was, from all of its operands."""
        for value in (*equation.ins, *equation.outs):
            self.mix(value)

    def all_same(self, value: int, out: int) -> None:
        lengths = self.graph.lengths(out)
        for axis, length in enumerate(self.graph.lengths(value)):
            if length == lengths[axis]:  # else it is 1, and broadcast
                self.same(value, axis, out, axis)

    def elementwise(self, equation: Equation) -> None:
        for value in equation.ins:
            self.all_same(value, equation.outs[0])

    def transpose(self, equation: Equation) -> None:
        for axis, source in enumerate(equation.params["permutation"]):
            self.same(equation.ins[0], source, equation.outs[0], axis)

    def broadcast_in_dim(self, equation: Equation) -> None:
        value, out = equation.ins[0], equation.outs[0]
        before, after = self.graph.lengths(value), self.graph.lengths(out)
        for axis, place in enumerate(equation.params["broadcast_dimensions"]):
            if before[axis] == after[place]:
                self.same(value, axis, out, place)

    def reshape(self, equation: Equation) -> None:
        if equation.params["dimensions"] is not None:
            return self.opaque(equation)
        lengths = (self.graph.lengths(value) for value in (equation.ins[0], equation.outs[0]))
        return self.regroup(equation, reshape_groups(*lengths))

    def squeeze(self, equation: Equation) -> None:
        lengths = self.graph.lengths(equation.ins[0])
        left = [axis for axis in range(len(lengths)) if axis not in equation.params["dimensions"]]
        places = [(axis, place) for place, axis in enumerate(left)]
        self.regroup(equation, exact_groups(places, lengths))

    def regroup(self, equation: Equation, groups: Sequence[Group]) -> None:
        """Split the operand's dimensions into factors, and join those of the result from them."""
        value, out = equation.ins[0], equation.outs[0]
        found: list[tuple[Group, tuple[int, ...]]] = []
        rest = set(range(len(self.graph.shapes[value])))
        for group in groups:
            rest -= set(group.ins)
            if not group.factors:
                self.mix(value, group.ins)
                self.mix(out, group.outs)
                continue
            factors = [self.new(length) for length, _ in group.factors]
            sides = ((value, group.ins, group.of_ins), (out, group.outs, group.of_outs))
            for side, axes, of_axes in sides:
                for axis, places in zip(axes, of_axes, strict=True):
                    whole = self.first[side] + axis
                    if len(places) == 1:
                        self.join(whole, factors[places[0]])
                    else:
                        parts = tuple(factors[place] for place in places)
                        self.ties.append(Joined(whole, parts, side == value))
            found.append((group, tuple(factors)))
        self.keep_whole(value, sorted(rest))  # those of length 1 that are dropped
        self.reshapes[self.number] = found

    def reduction(self, equation: Equation) -> None:
        value, out = equation.ins[0], equation.outs[0]
        reduced = equation.params["axes"]
        self.mix(value, reduced)
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
                self.mix(value, axes)
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
                self.mix(value, axes)
        else:
            self.same(left, lhs[0], out, result[0])
            self.same(right, rhs[0], out, result[1])

    def part(self, whole: tuple[int, int], start: int, part: tuple[int, int], places) -> None:
        """Units of dimension ``whole`` are ``places`` of dimension ``part`` (value, axis)."""
        if any(self.graph.varies(*dimension) for dimension in (whole, part)):
            for value, axis in (whole, part):  # which places these are depends on the batch
                self.keep_whole(value, [axis])
            return
        outer, inner = (self.first[value] + axis for value, axis in (whole, part))
        self.ties.append(Parts(outer, start, inner, np.asarray(places, np.int64)))

    def taken(self, equation: Equation) -> None:
        value, out, places = equation.ins[0], equation.outs[0], self.indices.get(self.number)
        if places is None:
            return self.opaque(equation)
        if isinstance(places, Window):
            return self.window(equation, places)
        axes = taken_axis(self.graph, equation, self.fixed)
        assert axes is not None
        left = [axis for axis in range(len(self.graph.shapes[value])) if axis != axes[0]]
        kept = [axis for axis in range(len(self.graph.shapes[value])) if axis != axes[1]]
        for axis, place in zip(left, kept, strict=True):
            self.same(value, axis, out, place)
        self.part((out, axes[1]), 0, (value, axes[0]), places)
        return self.keep_whole(equation.ins[1])

    def window(self, equation: Equation, window: Window) -> None:
        value, out = equation.ins[0], equation.outs[0]
        place = 0
        for axis, start in enumerate(window.starts):
            if axis in window.squeezed:
                one = self.new(1)
                self.whole.add(one)
                self.ties.append(Parts(one, 0, self.first[value] + axis, np.asarray([start])))
                continue
            self.cut((value, axis), (out, place), start, 1)
            place += 1
        for indices in equation.ins[1:]:
            self.keep_whole(indices)

    def cut(self, whole: tuple[int, int], part: tuple[int, int], start: int, step: int) -> None:
        """Dimension ``part`` is a piece of ``whole`` (value, axis), or all of it."""
        lengths = [self.graph.lengths(value)[axis] for value, axis in (whole, part)]
        if lengths[0] == lengths[1]:
            self.same(*whole, *part)
        else:
            self.part(part, 0, whole, start + step * np.arange(lengths[1][0]))

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
        starts = equation.params["start_indices"]
        steps = equation.params["strides"] or (1,) * len(starts)
        for axis, (start, step) in enumerate(zip(starts, steps, strict=True)):
            self.cut((value, axis), (out, axis), start, step)

    def rev(self, equation: Equation) -> None:
        value, out = equation.ins[0], equation.outs[0]
        for axis, length in enumerate(self.graph.shapes[value]):
            if axis in equation.params["dimensions"]:
                self.part((out, axis), 0, (value, axis), range(length)[::-1])
            else:
                self.same(value, axis, out, axis)

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
        mixed: dict[int, int] = {}
        for member, number in self.mixed.items():
            mixed.setdefault(self.find(member), number)
        return Axes(
            [
                tuple(self.find(first + axis) for axis in range(len(shape)))
                for first, shape in zip(self.first, self.graph.shapes, strict=False)
            ],
            {m: size for m, size in enumerate(self.sizes) if self.find(m) == m},
            {self.find(member) for member in self.whole},
            mixed,
            self._of_parameters(),
            [self._named(tie) for tie in self.ties],
            {
                number: [(group, tuple(map(self.find, factors))) for group, factors in groups]
                for number, groups in self.reshapes.items()
            },
        )

    def _of_parameters(self) -> set[int]:
        read = {m for tie in self.ties if isinstance(tie, Read) for m in (tie.read, *tie.written)}
        return {self.find(member) for member in read} | {
            self.find(self.first[value] + axis)
            for value in [*self.graph.leaves, *self.graph.constants]
            for axis in range(len(self.graph.shapes[value]))
            if jnp.issubdtype(self.graph.dtypes[value], jnp.inexact)
        }

    def _named(self, tie: Parts | Joined | Read) -> Parts | Joined | Read:
        find = self.find
        if isinstance(tie, Parts):
            return tie._replace(whole=find(tie.whole), part=find(tie.part))
        if isinstance(tie, Joined):
            factors = tuple(map(find, tie.factors))
            return tie._replace(whole=find(tie.whole), factors=factors)
        return tie._replace(read=find(tie.read), written=tuple(map(find, tie.written)))
