"""The rule of ``gather`` at one fixed index, or at fixed indices of one dimension."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jax import lax

from sparsejax.graph._indexing import indexing
from sparsejax.graph._rule import Equation, FixedSlice, FixedTake, Graph


def _indices(
    graph: Graph, equation: Equation, known: Mapping[int, Any]
) -> FixedSlice | FixedTake | None:
    indices = equation.ins[1]
    if indices not in known or equation.params["dimension_numbers"].operand_batching_dims:
        return None
    array = np.broadcast_to(known[indices], graph.shapes[indices]).astype(np.int64)
    if array.ndim == 1:
        return _slice(graph, equation, array)
    return _take(graph, equation, array)


def _slice(graph: Graph, equation: Equation, indices: np.ndarray) -> FixedSlice | None:
    """Return the slice of a gather at one index."""
    operand, numbers = equation.ins[0], equation.params["dimension_numbers"]
    clamped = equation.params["mode"] == lax.GatherScatterMode.CLIP
    starts = [0] * len(graph.shapes[operand])
    for axis, index in zip(numbers.start_index_map, indices.tolist(), strict=True):
        starts[axis] = index
    cut = _cut_axes(graph, equation)
    for axis, start in enumerate(starts):
        if graph.varies(operand, axis):
            if axis in cut or (start and not clamped):
                return None
            starts[axis] = 0
            continue
        last = graph.shapes[operand][axis] - equation.params["slice_sizes"][axis]
        starts[axis] = min(max(start, 0), last)
        if starts[axis] != start and not clamped:
            return None  # out of bounds, a gather fills in numbers of its own
    return FixedSlice(tuple(starts), tuple(map(int, numbers.collapsed_slice_dims)))


def _take(graph: Graph, equation: Equation, indices: np.ndarray) -> FixedTake | None:
    """Return the indices of a gather along one dimension."""
    operand, numbers = equation.ins[0], equation.params["dimension_numbers"]
    if (
        len(numbers.start_index_map) != 1
        or numbers.collapsed_slice_dims != numbers.start_index_map
        or indices.ndim != 2
        or indices.shape[1] != 1
    ):
        return None
    axis = int(numbers.start_index_map[0])
    if set(_cut_axes(graph, equation)) - {axis} or graph.varies(operand, axis):
        return None
    (result_axis,) = set(range(len(graph.shapes[operand]))) - set(numbers.offset_dims)
    found = indices[:, 0]
    if (found < 0).any() or (found >= graph.shapes[operand][axis]).any():
        return None
    return FixedTake(axis, int(result_axis), found)


def _cut_axes(graph: Graph, equation: Equation) -> list[int]:
    """Return the dimensions that are not read as a whole."""
    operand, out = graph.lengths(equation.ins[0]), graph.lengths(equation.outs[0])
    numbers = equation.params["dimension_numbers"]
    rest = iter(numbers.offset_dims)
    return [
        axis
        for axis, length in enumerate(operand)
        if length != ((1, 1) if axis in numbers.collapsed_slice_dims else out[next(rest)])
    ]


RULES = {
    "gather": indexing(_indices, "other than at fixed indices, within bounds, of one dimension")
}
