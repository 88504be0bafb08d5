"""What the rules of ``slice``, ``rev``, ``split``, ``dynamic_slice`` and ``gather`` have in common.

Each dimension of a result consists of fixed indices of a dimension of the operand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jax import lax

from sparsejax.graph._indices import FixedIndices, Read
from sparsejax.graph._rule import (
    AxisConstants,
    ConstantFinder,
    Equation,
    Graph,
    GroupBuilder,
    MovedLeaf,
    OnnxBuilder,
    Rule,
    SlicedGraph,
)


def static_indexing(find: Callable[[Graph, Equation], list[FixedIndices]], **fields: Any) -> Rule:
    """Return the rule of a primitive whose parameters say which indices each result reads."""

    def moved(graph: Graph, equation: Equation, leaf: MovedLeaf) -> list[MovedLeaf | None]:
        return [leaf.read(indices) for indices in find(graph, equation)]

    fields = {"moved": moved} | fields
    return _rule(lambda context, equation: find(context.graph, equation), find, **fields)


def dynamic_indexing(
    find: Callable[[Graph, Equation, Mapping[int, Any]], FixedIndices | None], refusal: str
) -> Rule:
    """Return the rule of a primitive whose indices are operands.

    Args:
      find: returns the indices, given the known values; None if they are not fixed.
      refusal: says which form of the primitive cannot be written as ONNX.
    """

    def found(context: Any, equation: Equation) -> list[FixedIndices] | None:
        indices = context.indices.get(equation.number)
        return None if indices is None else [indices]

    def onnx(builder: OnnxBuilder, equation: Equation) -> list[str]:
        indices = find(builder.graph, equation, builder.known)
        if indices is None:
            raise builder.refusal(equation, refusal)
        return [_write(builder, equation, equation.outs[0], indices)]

    return _rule(found, onnx=onnx, indices=find, lengths="slice_sizes")


def _rule(
    found: Callable[[Any, Equation], list[FixedIndices] | None],
    static: Callable[[Graph, Equation], list[FixedIndices]] | None = None,
    **fields: Any,
) -> Rule:
    """Return the rule of a primitive, given what finds the indices in each context."""

    def groups(builder: GroupBuilder, equation: Equation) -> None:
        results = found(builder, equation)
        if results is None:
            builder.unsupported_equation(equation)
            return
        value = equation.ins[0]
        for out, (reads, squeezed) in zip(equation.outs, results, strict=True):
            for out_axis, read in enumerate(reads):
                if read.indices is None:
                    builder.same(value, read.axis, out, out_axis)
                else:
                    indices = read.array(builder.graph.shapes[value][read.axis])
                    builder.slice((out, out_axis), (value, read.axis), indices)
            for axis, index in squeezed.items():
                builder.index((value, axis), index)
        for other in equation.ins[1:]:
            builder.keep_whole(other)

    def constants(finder: ConstantFinder, equation: Equation) -> list[AxisConstants]:
        results = found(finder, equation)
        if results is None:
            return [{}]
        whole = finder.all_along(equation.ins[0])
        return [
            {
                out_axis: whole[axis] if indices is None else whole[axis].take(indices)
                for out_axis, (axis, indices) in enumerate(reads)
            }
            for reads, _ in results
        ]

    def evaluate(sliced: SlicedGraph, equation: Equation, operands: Sequence[Any]) -> list[Any]:
        results = found(sliced, equation)
        assert results is not None
        return [
            _read(sliced, equation.ins[0], out, operands[0], indices)
            for out, indices in zip(equation.outs, results, strict=True)
        ]

    def onnx(builder: OnnxBuilder, equation: Equation) -> list[str]:
        assert static is not None
        return [
            _write(builder, equation, out, indices)
            for out, indices in zip(equation.outs, static(builder.graph, equation), strict=True)
        ]

    rules = {"groups": groups, "constants": constants, "evaluate": evaluate, "onnx": onnx}
    return Rule(**(rules | fields))


def _read(sliced: SlicedGraph, value: int, out: int, operand: Any, indices: FixedIndices) -> Any:
    """Return what is kept of a result, read from what is kept of the operand."""
    for out_axis, read in enumerate(indices.reads):
        if read.indices is None:
            continue
        kept = sliced.kept(out, out_axis)
        if kept is None and sliced.kept(value, read.axis) is None and _is_slice(read):
            operand = _slice(operand, read)
        else:
            wanted = read.array(sliced.graph.shapes[value][read.axis])
            wanted = wanted if kept is None else wanted[kept]
            operand = sliced.take(value, operand, read.axis, wanted)
    for axis, index in indices.squeezed.items():
        operand = sliced.take(value, operand, axis, np.asarray([index]))
    operand = lax.squeeze(operand, tuple(indices.squeezed))
    order = _order(indices)
    return operand if order == sorted(order) else lax.transpose(operand, order)


def _is_slice(read: Read) -> bool:
    return isinstance(read.indices, slice)


def _slice(operand: Any, read: Read) -> Any:
    """Slice or reverse a dimension, whose length may be symbolic."""
    assert isinstance(read.indices, slice)
    if read.indices.step == -1:
        return lax.rev(operand, (read.axis,))
    return lax.slice_in_dim(
        operand, read.indices.start, read.indices.stop, read.indices.step or 1, read.axis
    )


def _order(indices: FixedIndices) -> list[int]:
    """Return which dimension of the operand, without squeezed ones, each of the result is."""
    axes = [read.axis for read in indices.reads]
    return [sorted(axes).index(axis) for axis in axes]


def _write(builder: OnnxBuilder, equation: Equation, out: int, indices: FixedIndices) -> str:
    """Append the nodes that read a result from the operand."""
    value, lengths = equation.ins[0], builder.graph.shapes[equation.ins[0]]
    cuts = [(axis, index, index + 1, 1) for axis, index in indices.squeezed.items()
            if lengths[axis] != 1]  # fmt: skip
    for out_axis, read in enumerate(indices.reads):
        if read.indices is not None:
            builder.require_fixed(equation, value, read.axis)
            builder.require_fixed(equation, out, out_axis)
        if isinstance(read.indices, slice):
            start, stop, step = read.indices.indices(lengths[read.axis])
            cuts.append((read.axis, start, stop if step > 0 else -(2**31), step))
    name = builder.sliced(builder.name(value), cuts)
    for read in indices.reads:
        if isinstance(read.indices, np.ndarray):
            numbers = builder.integers(read.indices.tolist())
            name = builder.node("Gather", name, numbers, axis=read.axis)
    if indices.squeezed:
        name = builder.reshaped(name, builder.graph.shapes[out], builder.multiples[out])
    order = _order(indices)
    return name if order == sorted(order) else builder.node("Transpose", name, perm=order)
