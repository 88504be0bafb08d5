"""The rule of ``broadcast_in_dim``: new dimensions, and dimensions of length 1 that grow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from sparsejax.graph._rule import (
    AxisConstants,
    ConstantFinder,
    Equation,
    Graph,
    GroupBuilder,
    MovedLeaf,
    NotFactoredError,
    OnnxBuilder,
    Rule,
    SlicedGraph,
)
from sparsejax.graph._signs import of_first


def _groups(builder: GroupBuilder, equation: Equation) -> None:
    value, out = equation.ins[0], equation.outs[0]
    before, after = builder.graph.lengths(value), builder.graph.lengths(out)
    for axis, out_axis in enumerate(equation.params["broadcast_dimensions"]):
        if before[axis] == after[out_axis]:
            builder.same(value, axis, out, out_axis)


def _constants(finder: ConstantFinder, equation: Equation) -> list[AxisConstants]:
    shape = finder.graph.shapes[equation.outs[0]]
    return [
        {
            out_axis: finder.along(equation.ins[0], axis).broadcast(shape[out_axis])
            for axis, out_axis in enumerate(equation.params["broadcast_dimensions"])
        }
    ]


def _compute(finder: ConstantFinder, equation: Equation) -> list[np.ndarray]:
    array = finder.known[equation.ins[0]]
    shape = [1] * len(finder.graph.shapes[equation.outs[0]])
    for axis, out_axis in enumerate(equation.params["broadcast_dimensions"]):
        shape[out_axis] = array.shape[axis]
    return [array.reshape(shape)]


def _evaluate(sliced: SlicedGraph, equation: Equation, operands: Sequence[Any]) -> list[Any]:
    return equation.apply(operands, shape=sliced.shape(equation.outs[0]))


def _onnx(builder: OnnxBuilder, equation: Equation) -> list[str]:
    """Reshape to a length of 1 where a dimension is new, then expand."""
    value, (out,) = equation.ins[0], equation.outs
    lengths, multiples = builder.graph.shapes[out], builder.multiples[out]
    stays = [False] * len(lengths)
    for axis, out_axis in enumerate(equation.params["broadcast_dimensions"]):
        stays[out_axis] = builder.graph.shapes[value][axis] == lengths[out_axis]
    if all(stays):
        return [builder.name(value)]
    name = builder.reshaped(
        builder.name(value),
        [n if stay else 1 for n, stay in zip(lengths, stays, strict=True)],
        [n if stay else 0 for n, stay in zip(multiples, stays, strict=True)],
    )
    if not all(stay or n == 1 for n, stay in zip(lengths, stays, strict=True)):
        name = builder.expanded(
            name,
            [1 if stay else n for n, stay in zip(lengths, stays, strict=True)],
            [0 if stay else n for n, stay in zip(multiples, stays, strict=True)],
        )
    return [name]


def _moved_axes(graph: Graph, equation: Equation, axes: tuple[int, ...]) -> tuple[int, ...] | None:
    return tuple(equation.params["broadcast_dimensions"][axis] for axis in axes)


def _factored(equation: Equation, operands: Sequence[Any]) -> Any:
    value, shape = operands[0], equation.params["shape"]
    if math.prod(shape) != math.prod(value.shape):
        raise NotFactoredError
    return value.reshaped(shape)


def _moved(graph: Graph, equation: Equation, leaf: MovedLeaf) -> list[MovedLeaf | None]:
    shape = graph.shapes[equation.outs[0]]
    if math.prod(shape) != math.prod(graph.shapes[equation.ins[0]]):
        return [None]
    return [leaf.reshaped(shape)]


RULES = {
    "broadcast_in_dim": Rule(
        groups=_groups,
        sign=of_first,
        constants=_constants,
        compute=_compute,
        evaluate=_evaluate,
        onnx=_onnx,
        moved_axes=_moved_axes,
        factored=_factored,
        moved=_moved,
        per_example=True,
        lengths="shape",
    )
}
