"""The graph computed on the units that stay."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax import lax

from sparsejax.graph import Axes, Equation, Graph, Indices, Window


def evaluate(
    graph: Graph,
    axes: Axes,
    kept: Mapping[int, np.ndarray],
    indices: Indices,
    arrays: Mapping[int, Any],
) -> list[jax.Array]:
    """The outputs of a graph.

    Args:
      graph: what is computed, with the shapes for this batch size.
      axes: its families, which are the same for every one.
      kept: of families of which not every unit stays: those that do, in order.
      indices: as for `sparsejax.graph._axes.find_axes`.
      arrays: of the graph's leaves, constants and inputs, without the units that go.
    """
    smaller = _Smaller(graph, axes, kept, indices)
    values: dict[int, Any] = dict(graph.literals) | dict(arrays)
    for number, equation in enumerate(graph.equations):
        operands = [values[value] for value in equation.ins]
        results = smaller.compute(number, equation, operands)
        values |= dict(zip(equation.outs, results, strict=True))
    return [values[value] for value in graph.outputs]


def take(array: jax.Array, places: np.ndarray, axis: int) -> jax.Array:
    """Fixed places, each at most once, of one dimension."""
    length = array.shape[axis]
    if len(places) == length and (places == np.arange(length)).all():
        return array
    if len(places) and (np.diff(places) == 1).all():
        return lax.slice_in_dim(array, int(places[0]), int(places[-1]) + 1, axis=axis)
    if len(places) > 1 and (np.diff(places) == -1).all():
        return lax.rev(take(array, places[::-1], axis), (axis,))
    chosen = (slice(None),) * axis + (np.asarray(places, np.int32),)
    rising = bool((np.diff(places) > 0).all())
    return array.at[chosen].get(
        mode="promise_in_bounds",
        unique_indices=len(np.unique(places)) == len(places),
        indices_are_sorted=rising,
    )


class _Smaller:
    """Equations with the lengths that are left."""

    def __init__(
        self,
        graph: Graph,
        axes: Axes,
        kept: Mapping[int, np.ndarray],
        indices: Indices,
    ):
        self.graph, self.axes, self.kept, self.indices = graph, axes, kept, indices

    def places(self, value: int, axis: int) -> np.ndarray | None:
        """Which places of a dimension stay; None for all."""
        return self.kept.get(self.axes.families[value][axis])

    def shape(self, value: int) -> tuple[int, ...]:
        found = []
        for axis, length in enumerate(self.graph.shapes[value]):
            places = self.places(value, axis)
            found.append(length if places is None else len(places))
        return tuple(found)

    def untouched(self, equation: Equation) -> bool:
        """Whether all operands and results are whole."""
        return all(
            self.places(value, axis) is None
            for value in (*equation.ins, *equation.outs)
            for axis in range(len(self.graph.shapes[value]))
        )

    def compute(self, number: int, equation: Equation, operands: Sequence[Any]) -> list[Any]:
        name = equation.name
        if self.untouched(equation):
            return equation.apply(operands)
        if name in ("gather", "dynamic_slice"):
            return [self.taken(number, equation, operands[0])]
        if name == "reshape":
            return [self.reshape(number, equation, operands[0])]
        if name in ("broadcast_in_dim", "concatenate", "iota", "pad", "rev", "slice", "split"):
            return getattr(self, name)(equation, operands)
        return equation.apply(operands)

    def iota(self, equation: Equation, operands: Sequence[Any]) -> list[Any]:
        (result,), (out,) = equation.apply(operands), equation.outs
        for axis in range(result.ndim):
            places = self.places(out, axis)
            result = result if places is None else take(result, places, axis)
        return [result]

    def broadcast_in_dim(self, equation: Equation, operands: Sequence[Any]) -> list[Any]:
        return equation.apply(operands, shape=self.shape(equation.outs[0]))

    def reshape(self, number: int, equation: Equation, operand: Any) -> Any:
        out = equation.outs[0]
        # All tuples of the units that stay first, then those tuples that stay.
        joined, left = list(self.shape(out)), []
        for group, factors in self.axes.reshapes[number]:
            for axis, of_axis in zip(group.outs, group.of_outs, strict=True):
                places = self.places(out, axis)
                if len(of_axis) > 1 and places is not None:
                    there = self._tuples([factors[place] for place in of_axis])
                    joined[axis] = len(there)
                    left.append((axis, np.searchsorted(there, places)))
        result = lax.reshape(operand, tuple(joined))
        for axis, places in left:
            result = take(result, places, axis)
        return result

    def _tuples(self, factors: Sequence[int]) -> np.ndarray:
        """Of families joined: the places that are left when each has lost its units."""
        lengths = [self.axes.sizes[family] for family in factors]
        left = [self.kept.get(f, np.arange(n)) for f, n in zip(factors, lengths, strict=True)]
        return np.arange(math.prod(lengths)).reshape(lengths)[np.ix_(*left)].ravel()

    def _part(self, operand: Any, axis: int, source: np.ndarray | None, wanted: np.ndarray) -> Any:
        """The ``wanted`` places, counted in the whole dimension of which ``source`` is left."""
        return take(operand, wanted if source is None else np.searchsorted(source, wanted), axis)

    def taken(self, number: int, equation: Equation, operand: Any) -> Any:
        value, out = equation.ins[0], equation.outs[0]
        places = self.indices[number]
        if isinstance(places, Window):
            sizes = equation.params["slice_sizes"]
            return lax.squeeze(self._cut(value, out, operand, places, sizes), places.squeezed)
        numbers = equation.params["dimension_numbers"]
        axis = numbers.start_index_map[0]
        (place,) = set(range(len(self.graph.shapes[out]))) - set(numbers.offset_dims)
        kept = self.places(out, place)
        wanted = places if kept is None else places[kept]
        result = self._part(operand, axis, self.places(value, axis), wanted)
        if axis == place:
            return result
        return lax.transpose(result, _moved(result.ndim, axis, place))

    def _cut(self, value: int, out: int, operand: Any, window: Window, sizes: Sequence[int]) -> Any:
        place = 0
        for axis, start in enumerate(window.starts):
            kept = None
            if axis not in window.squeezed:
                kept = self.places(out, place)
                place += 1
                if kept is not None and self.places(value, axis) is kept:
                    continue  # all of the dimension
            source = self.places(value, axis)
            if source is None and kept is None:
                operand = lax.slice_in_dim(operand, start, start + sizes[axis], axis=axis)
                continue
            wanted = start + (np.arange(sizes[axis]) if kept is None else kept)
            operand = self._part(operand, axis, source, wanted)
        return operand

    def rev(self, equation: Equation, operands: Sequence[Any]) -> list[Any]:
        value, out, operand = equation.ins[0], equation.outs[0], operands[0]
        for axis in equation.params["dimensions"]:
            source, kept = self.places(value, axis), self.places(out, axis)
            if source is None and kept is None:
                operand = lax.rev(operand, (axis,))
                continue
            length = self.graph.shapes[value][axis]
            wanted = length - 1 - (np.arange(length) if kept is None else kept)
            operand = self._part(operand, axis, source, wanted)
        return [operand]

    def concatenate(self, equation: Equation, operands: Sequence[Any]) -> list[Any]:
        axis, out = equation.params["dimension"], equation.outs[0]
        kept = self.places(out, axis)
        pieces, start = [], 0
        for value, operand in zip(equation.ins, operands, strict=True):
            length = self.graph.shapes[value][axis]
            if kept is None:
                wanted = np.arange(length)
            else:
                wanted = kept[(kept >= start) & (kept < start + length)] - start
            if len(wanted):
                pieces.append(self._part(operand, axis, self.places(value, axis), wanted))
            start += length
        return [lax.concatenate(pieces, axis)]

    def slice(self, equation: Equation, operands: Sequence[Any]) -> list[Any]:
        (value,), out, operand = equation.ins, equation.outs[0], operands[0]
        params = equation.params
        starts, limits = list(params["start_indices"]), list(params["limit_indices"])
        strides = list(params["strides"] or [1] * len(starts))
        changed = []
        for axis, shape in enumerate(operand.shape):
            same = self.graph.shapes[value][axis] == self.graph.shapes[out][axis]
            source, kept = self.places(value, axis), self.places(out, axis)
            if same or source is not None or kept is not None:
                if not same:
                    places = np.arange(starts[axis], limits[axis], strides[axis])
                    changed.append((axis, source, places if kept is None else places[kept]))
                starts[axis], limits[axis], strides[axis] = 0, shape, 1
        result = lax.slice(operand, starts, limits, strides)
        for axis, source, wanted in changed:
            result = self._part(result, axis, source, wanted)
        return [result]

    def split(self, equation: Equation, operands: Sequence[Any]) -> list[Any]:
        axis, start, found = equation.params["axis"], 0, []
        source = self.places(equation.ins[0], axis)
        for out, size in zip(equation.outs, equation.params["sizes"], strict=True):
            kept = self.places(out, axis)
            wanted = start + (np.arange(size) if kept is None else kept)
            found.append(self._part(operands[0], axis, source, wanted))
            start += int(size)
        return found

    def pad(self, equation: Equation, operands: Sequence[Any]) -> list[Any]:
        (value, _), out = equation.ins, equation.outs[0]
        operand, padding = operands
        config = []
        for axis, (low, high, inside) in enumerate(equation.params["padding_config"]):
            kept = self.places(out, axis)
            length = self.graph.shapes[value][axis]
            source = self.places(value, axis)
            if (low or high) and (kept is not None or source is not None):
                kept = np.arange(low + length + high) if kept is None else kept
                wanted = kept[(kept >= low) & (kept < low + length)] - low
                operand = self._part(operand, axis, source, wanted)
                low, high = int((kept < low).sum()), int((kept >= low + length).sum())
            config.append((int(low), int(high), int(inside)))
        return [lax.pad(operand, padding, config)]


def _moved(ndim: int, axis: int, place: int) -> list[int]:
    order = [other for other in range(ndim) if other != axis]
    order.insert(place, axis)
    return order
