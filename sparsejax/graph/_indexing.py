"""What the rules of ``gather`` and ``dynamic_slice`` have in common: they read fixed indices."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jax import lax

from sparsejax.graph._rule import (
    AxisConstants,
    ConstantFinder,
    Equation,
    FixedSlice,
    FixedTake,
    Graph,
    GroupBuilder,
    OnnxBuilder,
    Rule,
    SlicedGraph,
)

FindIndices = Callable[[Graph, Equation, Mapping[int, Any]], FixedSlice | FixedTake | None]


def indexing(find_indices: FindIndices, refusal: str) -> Rule:
    """Return the rule of a primitive that reads fixed indices.

    Args:
      find_indices: returns the indices, given the known values; None if they are not fixed.
      refusal: says which form of the primitive cannot be written as ONNX.
    """

    def onnx(builder: OnnxBuilder, equation: Equation) -> list[str]:
        indices = find_indices(builder.graph, equation, builder.known)
        if indices is None:
            raise builder.refusal(equation, refusal)
        if isinstance(indices, FixedSlice):
            return [_onnx_slice(builder, equation, indices)]
        return [_onnx_take(builder, equation, indices)]

    return Rule(
        groups=_groups,
        constants=_constants,
        evaluate=_evaluate,
        onnx=onnx,
        indices=find_indices,
        lengths="slice_sizes",
    )


def _sources(indices: FixedSlice | FixedTake, rank: int) -> list[int]:
    """Return the operand's dimension for each dimension of the result."""
    if isinstance(indices, FixedSlice):
        return [axis for axis in range(rank) if axis not in indices.squeezed]
    order = [axis for axis in range(rank) if axis != indices.axis]
    order.insert(indices.result_axis, indices.axis)
    return order


def _groups(builder: GroupBuilder, equation: Equation) -> None:
    value, out = equation.ins[0], equation.outs[0]
    indices = builder.indices.get(equation.number)
    if indices is None:
        builder.unsupported_equation(equation)
        return
    for out_axis, axis in enumerate(_sources(indices, len(builder.graph.shapes[value]))):
        if isinstance(indices, FixedSlice):
            builder.slice_or_same((out, out_axis), (value, axis), indices.starts[axis])
        elif axis != indices.axis:
            builder.same(value, axis, out, out_axis)
        else:
            builder.slice((out, out_axis), (value, axis), indices.indices)
    if isinstance(indices, FixedSlice):
        for axis in indices.squeezed:
            builder.index((value, axis), indices.starts[axis])
    for other in equation.ins[1:]:
        builder.keep_whole(other)


def _constants(finder: ConstantFinder, equation: Equation) -> list[AxisConstants]:
    value, indices = equation.ins[0], finder.indices.get(equation.number)
    if indices is None:
        return [{}]
    sources = _sources(indices, len(finder.graph.shapes[value]))
    found = finder.moved(value, sources)
    if isinstance(indices, FixedTake):
        taken = found[indices.result_axis].take(indices.indices)
        return [found | {indices.result_axis: taken}]
    sizes = equation.params["slice_sizes"]
    cuts = [slice(indices.starts[axis], indices.starts[axis] + sizes[axis]) for axis in sources]
    return [{out_axis: found[out_axis].take(cut) for out_axis, cut in enumerate(cuts)}]


def _evaluate(sliced: SlicedGraph, equation: Equation, operands: Sequence[Any]) -> list[Any]:
    value, out, operand = equation.ins[0], equation.outs[0], operands[0]
    indices = sliced.indices[equation.number]
    if isinstance(indices, FixedTake):
        kept = sliced.kept(out, indices.result_axis)
        wanted = indices.indices if kept is None else indices.indices[kept]
        result = sliced.take(value, operand, indices.axis, wanted)
        order = _sources(indices, result.ndim)
        return [result if order == sorted(order) else lax.transpose(result, order)]
    sizes = equation.params["slice_sizes"]
    out_axes = {axis: o for o, axis in enumerate(_sources(indices, operand.ndim))}
    for axis, start in enumerate(indices.starts):
        source = sliced.kept(value, axis)
        kept = sliced.kept(out, out_axes[axis]) if axis in out_axes else None
        if kept is not None and source is kept:
            continue  # all of the dimension
        if source is None and kept is None:
            operand = lax.slice_in_dim(operand, start, start + sizes[axis], axis=axis)
        else:
            wanted = start + (np.arange(sizes[axis]) if kept is None else kept)
            operand = sliced.take(value, operand, axis, wanted)
    return [lax.squeeze(operand, indices.squeezed)]


def _onnx_slice(builder: OnnxBuilder, equation: Equation, indices: FixedSlice) -> str:
    value, out = equation.ins[0], equation.outs[0]
    cuts = [
        (axis, start, start + int(size), 1)
        for axis, (start, size) in enumerate(
            zip(indices.starts, equation.params["slice_sizes"], strict=True)
        )
        if size != builder.graph.shapes[value][axis]
    ]
    result = builder.sliced(builder.name(value), cuts)
    if not indices.squeezed:
        return result
    return builder.reshaped(result, builder.graph.shapes[out], builder.multiples[out])


def _onnx_take(builder: OnnxBuilder, equation: Equation, indices: FixedTake) -> str:
    value = equation.ins[0]
    numbers = builder.integers(indices.indices.tolist())
    taken = builder.node("Gather", builder.name(value), numbers, axis=indices.axis)
    order = _sources(indices, len(builder.graph.shapes[value]))
    return taken if order == sorted(order) else builder.node("Transpose", taken, perm=order)
