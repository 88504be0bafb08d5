"""The rule of ``squeeze``: dimensions of length 1 are dropped."""

from __future__ import annotations

import numpy as np

from sparsejax.graph._reshape import unchanged
from sparsejax.graph._rule import (
    AxisConstants,
    ConstantFinder,
    Equation,
    Graph,
    GroupBuilder,
    OnnxBuilder,
    Rule,
)


def _left(graph: Graph, equation: Equation) -> list[int]:
    """Return the operand's dimensions that the result has."""
    rank = len(graph.shapes[equation.ins[0]])
    return [axis for axis in range(rank) if axis not in equation.params["dimensions"]]


def _groups(builder: GroupBuilder, equation: Equation) -> None:
    axes = [(axis, out_axis) for out_axis, axis in enumerate(_left(builder.graph, equation))]
    builder.reshape(equation, unchanged(axes, builder.graph.lengths(equation.ins[0])))


def _constants(finder: ConstantFinder, equation: Equation) -> list[AxisConstants]:
    return [finder.moved(equation.ins[0], _left(finder.graph, equation))]


def _compute(finder: ConstantFinder, equation: Equation) -> list[np.ndarray]:
    return [np.squeeze(finder.known[equation.ins[0]], equation.params["dimensions"])]


def _onnx(builder: OnnxBuilder, equation: Equation) -> list[str]:
    (value,), (out,) = equation.ins, equation.outs
    shape, multiples = builder.graph.shapes[out], builder.multiples[out]
    return [builder.reshaped(builder.name(value), shape, multiples)]


def _moved_axes(graph: Graph, equation: Equation, axes: tuple[int, ...]) -> tuple[int, ...] | None:
    left = _left(graph, equation)
    return tuple(left.index(axis) for axis in axes)


RULES = {
    "squeeze": Rule(
        groups=_groups,
        constants=_constants,
        compute=_compute,
        onnx=_onnx,
        moved_axes=_moved_axes,
        per_example=True,
    )
}
