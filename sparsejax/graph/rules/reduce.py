"""The rules of ``reduce_sum``, ``reduce_max`` and ``reduce_min``."""

from __future__ import annotations

import math

from sparsejax.graph._rule import (
    AxisConstants,
    ConstantFinder,
    Equation,
    Graph,
    GroupBuilder,
    OnnxBuilder,
    OnnxRule,
    Rule,
)


def _left(graph: Graph, equation: Equation) -> list[int]:
    """Return the dimensions that are not reduced."""
    rank = len(graph.shapes[equation.ins[0]])
    return [axis for axis in range(rank) if axis not in equation.params["axes"]]


def _groups(builder: GroupBuilder, equation: Equation) -> None:
    value, left = equation.ins[0], _left(builder.graph, equation)
    builder.unsupported(equation, value, equation.params["axes"])
    builder.same_pairs(value, left, equation.outs[0], range(len(left)))


def _constants(finder: ConstantFinder, equation: Equation) -> list[AxisConstants]:
    return [finder.moved(equation.ins[0], _left(finder.graph, equation))]


def _sum_constants(finder: ConstantFinder, equation: Equation) -> list[AxisConstants]:
    graph, value, axes = finder.graph, equation.ins[0], equation.params["axes"]
    found = finder.moved(value, _left(graph, equation))
    if any(graph.varies(value, axis) for axis in axes):  # the sum depends on the batch size
        return [{axis: units.zeros() for axis, units in found.items()}]
    count = math.prod(graph.shapes[value][axis] for axis in axes)
    return [{axis: units.times(count) for axis, units in found.items()}]


def _onnx(operator: str) -> OnnxRule:
    def write(builder: OnnxBuilder, equation: Equation) -> list[str]:
        (operand,) = builder.operands(equation)
        axes = equation.params["axes"]
        if not axes:  # in ONNX, no axes mean all
            return [operand]
        return [builder.node(operator, operand, builder.integers(axes), keepdims=0)]

    return write


RULES = {
    "reduce_sum": Rule(groups=_groups, constants=_sum_constants, onnx=_onnx("ReduceSum")),
    "reduce_max": Rule(groups=_groups, constants=_constants, onnx=_onnx("ReduceMax")),
    "reduce_min": Rule(groups=_groups, constants=_constants, onnx=_onnx("ReduceMin")),
}
