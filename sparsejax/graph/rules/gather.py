"""The rule of ``gather``: at one fixed index, at fixed ones of a dimension, or at computed ones.

Computed indices, such as those of tokens, are assumed to be within bounds, unless the gather fills
in a number of its own for the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from jax import lax

from sparsejax.graph._indexing import dynamic_indexing
from sparsejax.graph._indices import ComputedIndices, FixedIndices, Read
from sparsejax.graph._onnx_gather import write_take
from sparsejax.graph._rule import Equation, Graph, OnnxBuilder


def _indices(graph: Graph, equation: Equation, known: Mapping[int, Any]) -> FixedIndices | None:
    indices = equation.ins[1]
    if indices not in known or equation.params["dimension_numbers"].operand_batching_dims:
        return None
    array = np.broadcast_to(known[indices], graph.shapes[indices]).astype(np.int64)
    find = _slice if array.ndim == 1 else _take
    return find(graph, equation, array)


def _slice(graph: Graph, equation: Equation, indices: np.ndarray) -> FixedIndices | None:
    """Return the slice of a gather at one index."""
    operand, numbers = equation.ins[0], equation.params["dimension_numbers"]
    clamped = equation.params["mode"] == lax.GatherScatterMode.CLIP
    index_of = dict(zip(numbers.start_index_map, indices.tolist(), strict=True))
    cut, reads, squeezed = _cut_axes(graph, equation), [], {}
    for axis, length in enumerate(graph.shapes[operand]):
        index, size = index_of.get(axis, 0), equation.params["slice_sizes"][axis]
        if graph.varies(operand, axis):
            if axis in cut or (index and not clamped):
                return None
            reads.append(Read(axis))
            continue
        start = min(max(index, 0), length - size)
        if start != index and not clamped:
            return None  # out of bounds, a gather fills in numbers of its own
        if axis in numbers.collapsed_slice_dims:
            squeezed[axis] = start
        else:
            reads.append(Read(axis, slice(start, start + size) if axis in cut else None))
    return FixedIndices(tuple(reads), squeezed)


def _take(graph: Graph, equation: Equation, indices: np.ndarray) -> FixedIndices | None:
    """Return the indices of a gather along one dimension."""
    operand, numbers = equation.ins[0], equation.params["dimension_numbers"]
    if (
        len(numbers.start_index_map) != 1
        or numbers.collapsed_slice_dims != numbers.start_index_map
        or indices.ndim != 2
        or indices.shape[1] != 1
    ):
        return None
    (axis,), found = numbers.start_index_map, indices[:, 0]
    if set(_cut_axes(graph, equation)) - {axis} or graph.varies(operand, axis):
        return None
    if (found < 0).any() or (found >= graph.shapes[operand][axis]).any():
        return None
    rank = len(graph.shapes[operand])
    reads = [Read(other) for other in range(rank) if other != axis]
    (out_axis,) = set(range(rank)) - set(numbers.offset_dims)
    reads.insert(out_axis, Read(int(axis), found))
    return FixedIndices(tuple(reads), {})


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


def _computed(graph: Graph, equation: Equation) -> ComputedIndices:
    operand, out = equation.ins[0], equation.outs[0]
    numbers = equation.params["dimension_numbers"]
    absent = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    left = [axis for axis in range(len(graph.shapes[operand])) if axis not in absent]
    before, after = graph.lengths(operand), graph.lengths(out)
    # A whole dimension starts at 0; others would be out of bounds.
    filled = equation.params["mode"] == lax.GatherScatterMode.FILL_OR_DROP
    indexed = numbers.start_index_map if filled else ()
    passed = {
        out_axis: axis
        for out_axis, axis in zip(numbers.offset_dims, left, strict=True)
        if before[axis] == after[out_axis] and axis not in indexed
    }
    others = [axis for axis in range(len(graph.shapes[out])) if axis not in numbers.offset_dims]
    joined = [(1, axis, out_axis) for axis, out_axis in enumerate(others)]
    for axis, index_axis in zip(
        numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True
    ):
        joined.append((0, axis, others[index_axis]))
    fill = equation.params["fill_value"]
    deliberate = fill is not None and not math.isnan(fill)
    return ComputedIndices(passed, tuple(joined), fill if deliberate else None)


def _onnx(builder: OnnxBuilder, equation: Equation) -> list[str]:
    fixed = _indices(builder.graph, equation, builder.known)
    write = write_take if fixed is None else _RULE.onnx
    assert write is not None
    return write(builder, equation)


_RULE = dynamic_indexing(_indices, _computed, "other than at fixed indices")
RULES = {"gather": replace(_RULE, onnx=_onnx)}
