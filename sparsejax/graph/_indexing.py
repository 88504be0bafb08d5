"""The common part of the rules of ``slice``, ``rev``, ``split``, ``dynamic_slice`` and ``gather``.

Each dimension of a result consists of fixed indices of a dimension of the operand, or all of its
dimensions that are indexed by computed numbers are kept whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jax import lax

from sparsejax.graph._indices import ComputedIndices, FixedIndices, Read
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
    compute_whole,
)
from sparsejax.graph._signs import of_first


def static_indexing(find: Callable[[Graph, Equation], list[FixedIndices]], **fields: Any) -> Rule:
    """Return the rule of a primitive whose parameters say which indices each result reads."""

    def moved(graph: Graph, equation: Equation, leaf: MovedLeaf) -> list[MovedLeaf | None]:
        return [leaf.read(indices) for indices in find(graph, equation)]

    fields = {"moved": moved} | fields
    return _rule(lambda context, equation: find(context.graph, equation), find, **fields)


def dynamic_indexing(
    find: Callable[[Graph, Equation, Mapping[int, Any]], FixedIndices | None],
    computed: Callable[[Graph, Equation], ComputedIndices],
    refusal: str,
) -> Rule:
    """Return the rule of a primitive whose indices are operands.

    Where the indices are computed from the inputs, each of the operand's units may be read.

    Args:
      find: returns the indices, given the known values; None if they are not fixed.
      computed: returns what the result consists of if they are not.
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

    return _rule(found, computed=computed, onnx=onnx, indices=find, lengths="slice_sizes")


def _rule(
    found: Callable[[Any, Equation], list[FixedIndices] | None],
    static: Callable[[Graph, Equation], list[FixedIndices]] | None = None,
    computed: Callable[[Graph, Equation], ComputedIndices] | None = None,
    **fields: Any,
) -> Rule:
    """Return the rule of a primitive, given what finds the indices in each context."""

    def groups(builder: GroupBuilder, equation: Equation) -> None:
        results = found(builder, equation)
        if results is None:
            assert computed is not None
            _computed_groups(builder, equation, computed(builder.graph, equation))
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
            assert computed is not None
            return [_computed_constants(finder, equation, computed(finder.graph, equation))]
        whole = finder.all_along(equation.ins[0])
        return [
            {
                out_axis: whole[axis] if indices is None else whole[axis].take(indices)
                for out_axis, (axis, indices) in enumerate(reads)
            }
            for reads, _ in results
        ]

    def compute(finder: ConstantFinder, equation: Equation) -> list[np.ndarray]:
        results = found(finder, equation)
        if results is None:
            return compute_whole(finder, equation)
        return [_read_array(finder.whole(equation.ins[0]), indices) for indices in results]

    def evaluate(sliced: SlicedGraph, equation: Equation, operands: Sequence[Any]) -> list[Any]:
        results = found(sliced, equation)
        if results is None:
            assert computed is not None
            return _computed_result(sliced, equation, operands, computed(sliced.graph, equation))
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

    rules: dict[str, Any] = {"groups": groups, "constants": constants, "compute": compute}
    rules |= {"evaluate": evaluate, "onnx": onnx, "sign": of_first}
    return Rule(**(rules | fields))


def _read_array(array: np.ndarray, indices: FixedIndices) -> np.ndarray:
    """Return a result, read from all of a fixed operand."""
    for read in indices.reads:
        if read.indices is not None:
            array = array[(slice(None),) * read.axis + (read.indices,)]
    for axis, index in indices.squeezed.items():
        array = np.take(array, [index], axis)
    return np.transpose(array.squeeze(tuple(indices.squeezed)), _order(indices))


def _computed_groups(builder: GroupBuilder, equation: Equation, found: ComputedIndices) -> None:
    """Keep all units but those of dimensions that are read as a whole."""
    out, lengths = equation.outs[0], builder.graph.shapes
    free = {(0, axis) for axis in found.passed.values()}
    free |= {(place, axis) for place, axis, _ in found.joined}
    for out_axis, axis in found.passed.items():
        builder.same(equation.ins[0], axis, out, out_axis)
    for place, axis, out_axis in found.joined:
        builder.same(equation.ins[place], axis, out, out_axis)
    for place, value in enumerate(equation.ins):
        axes = range(len(lengths[value]))
        builder.keep_whole(value, [axis for axis in axes if (place, axis) not in free])
    made = {*found.passed, *(out_axis for *_, out_axis in found.joined)}
    builder.keep_whole(out, [axis for axis in range(len(lengths[out])) if axis not in made])


def _computed_constants(
    finder: ConstantFinder, equation: Equation, found: ComputedIndices
) -> AxisConstants:
    units = {
        out_axis: finder.along(equation.ins[0], axis) for out_axis, axis in found.passed.items()
    }
    if found.fill is None:
        return units
    return {
        axis: one._replace(mask=one.mask & (one.numbers == found.fill))
        for axis, one in units.items()
    }


def _computed_result(
    sliced: SlicedGraph, equation: Equation, operands: Sequence[Any], found: ComputedIndices
) -> list[Any]:
    sizes, lengths = list(equation.params["slice_sizes"]), sliced.shape(equation.ins[0])
    for axis in found.passed.values():
        sizes[axis] = lengths[axis]
    return equation.apply(operands, slice_sizes=tuple(sizes))


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
