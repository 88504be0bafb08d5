"""The rules of ``cumsum``, ``cummax``, ``cummin``, ``cumprod`` and ``cumlogsumexp``."""

from __future__ import annotations

from sparsejax.graph._rule import (
    AxisConstants,
    ConstantFinder,
    Equation,
    GroupBuilder,
    OnnxBuilder,
    Rule,
)


def _groups(builder: GroupBuilder, equation: Equation) -> None:
    value, out = equation.ins[0], equation.outs[0]
    builder.same_lengths(value, out)
    builder.unsupported(equation, value, [equation.params["axis"]])


def _sum_constants(finder: ConstantFinder, equation: Equation) -> list[AxisConstants]:
    found = finder.all_along(equation.ins[0])
    return [{a: units.zeros() for a, units in found.items() if a != equation.params["axis"]}]


def _extremum_constants(finder: ConstantFinder, equation: Equation) -> list[AxisConstants]:
    found = finder.all_along(equation.ins[0])
    return [{a: units for a, units in found.items() if a != equation.params["axis"]}]


def _sum_onnx(builder: OnnxBuilder, equation: Equation) -> list[str]:
    (operand,) = builder.operands(equation)
    axis = builder.integers([equation.params["axis"]])
    return [builder.node("CumSum", operand, axis, reverse=int(equation.params["reverse"]))]


RULES = {
    "cumsum": Rule(groups=_groups, constants=_sum_constants, onnx=_sum_onnx),
    "cummax": Rule(groups=_groups, constants=_extremum_constants),
    "cummin": Rule(groups=_groups, constants=_extremum_constants),
    "cumprod": Rule(groups=_groups),
    "cumlogsumexp": Rule(groups=_groups),
}
