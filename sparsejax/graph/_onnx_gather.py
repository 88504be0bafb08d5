"""Gathers along one dimension in ONNX, as of embeddings by token ids."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import lax

from sparsejax.graph._graph import Equation, Graph
from sparsejax.graph._onnx_builder import OnnxBuilder


def write_take(builder: OnnxBuilder, equation: Equation) -> list[str]:
    """Append the nodes of ``gather`` at computed indices and return the name of the result."""
    (value, indices), numbers = equation.ins, equation.params["dimension_numbers"]
    if not _is_take(builder.graph, equation):
        raise builder.refusal(equation, "other than at fixed indices, or at any of one dimension")
    (axis,) = map(int, numbers.start_index_map)
    builder.require_fixed(equation, value, axis)
    length, dtype = builder.graph.shapes[value][axis], builder.graph.dtypes[indices]
    shape, multiples = builder.graph.shapes[indices][:-1], builder.multiples[indices][:-1]
    name = builder.node("Squeeze", builder.name(indices), builder.integers([len(shape)]))
    name = builder.cast(name, dtype, np.dtype(np.int64))
    first, last = (builder.constant(np.asarray(n, np.int64)) for n in (0, length - 1))
    # XLA clips indices that are promised to be within bounds, and are not; a runtime would fail.
    clipped = builder.node("Min", builder.node("Max", name, first), last)
    result = builder.node("Gather", builder.name(value), clipped, axis=axis)
    if equation.params["mode"] == lax.GatherScatterMode.FILL_OR_DROP:
        inside = builder.node("Equal", clipped, name)
        before, behind = [axis, len(builder.graph.shapes[value]) - axis - 1]
        inside = builder.reshaped(
            inside, [1] * before + list(shape) + [1] * behind,
            [0] * before + list(multiples) + [0] * behind,
        )  # fmt: skip
        result = builder.node("Where", inside, result, builder.constant(_fill(builder, equation)))
    order = _order(builder.graph, equation, axis)
    return [result if order == sorted(order) else builder.node("Transpose", result, perm=order)]


def _is_take(graph: Graph, equation: Equation) -> bool:
    """Return whether each index chooses a whole slice at one index of one dimension."""
    (value, indices), numbers = equation.ins, equation.params["dimension_numbers"]
    axes = tuple(numbers.start_index_map)
    if len(axes) != 1 or tuple(numbers.collapsed_slice_dims) != axes:
        return False
    if numbers.operand_batching_dims or graph.shapes[indices][-1] != 1:
        return False
    sizes = zip(equation.params["slice_sizes"], graph.shapes[value], strict=True)
    return all(size == n or axis in axes for axis, (size, n) in enumerate(sizes))


def _order(graph: Graph, equation: Equation, axis: int) -> list[int]:
    """Return which dimension of ONNX's result, with the indices at ``axis``, each one is."""
    numbers = equation.params["dimension_numbers"]
    rank, many = len(graph.shapes[equation.outs[0]]), len(graph.shapes[equation.ins[1]]) - 1
    of_indices, rest = (
        iter(range(axis, axis + many)),
        iter([*range(axis), *range(axis + many, rank)]),
    )
    return [next(rest if out in numbers.offset_dims else of_indices) for out in range(rank)]


def _fill(builder: OnnxBuilder, equation: Equation) -> np.ndarray:
    """Return the number that stands in the result for an index out of bounds."""
    dtype, number = builder.graph.dtypes[equation.outs[0]], equation.params["fill_value"]
    if number is None:
        if jnp.issubdtype(dtype, jnp.inexact):
            number = np.nan
        elif dtype == np.bool_:
            number = True
        else:
            info = jnp.iinfo(dtype)
            number = info.min if info.min < 0 else info.max
    return np.asarray(number, dtype)
