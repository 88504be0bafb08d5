"""The rule of ``optimization_barrier``: each result is an operand."""

from __future__ import annotations

import numpy as np

from sparsejax.graph._rule import (
    AxisConstants,
    ConstantFinder,
    Equation,
    GroupBuilder,
    OnnxBuilder,
    Rule,
)


def _groups(builder: GroupBuilder, equation: Equation) -> None:
    for value, out in zip(equation.ins, equation.outs, strict=True):
        builder.same_lengths(value, out)


def _constants(finder: ConstantFinder, equation: Equation) -> list[AxisConstants]:
    return [finder.all_along(value) for value in equation.ins]


def _compute(finder: ConstantFinder, equation: Equation) -> list[np.ndarray]:
    return [finder.known[value] for value in equation.ins]


def _onnx(builder: OnnxBuilder, equation: Equation) -> list[str]:
    return builder.operands(equation)


RULE = Rule(groups=_groups, constants=_constants, compute=_compute, onnx=_onnx, per_example=True)

RULES = {"optimization_barrier": RULE}
