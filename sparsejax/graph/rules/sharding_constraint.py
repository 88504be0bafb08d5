"""The rule of ``sharding_constraint``: the result is the operand.

Where units have left, their number may be no multiple of that of the devices any more, so the
compiler shards the rest as it likes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sparsejax.graph._rule import (
    AxisConstants,
    ConstantFinder,
    Equation,
    GroupBuilder,
    OnnxBuilder,
    Rule,
    SlicedGraph,
)


def _groups(builder: GroupBuilder, equation: Equation) -> None:
    builder.same_lengths(equation.ins[0], equation.outs[0])


def _constants(finder: ConstantFinder, equation: Equation) -> list[AxisConstants]:
    return [finder.all_along(equation.ins[0])]


def _compute(finder: ConstantFinder, equation: Equation) -> list[np.ndarray]:
    return [finder.known[equation.ins[0]]]


def _evaluate(sliced: SlicedGraph, equation: Equation, operands: Sequence[Any]) -> list[Any]:
    return list(operands)


def _onnx(builder: OnnxBuilder, equation: Equation) -> list[str]:
    return builder.operands(equation)


RULES = {
    "sharding_constraint": Rule(
        groups=_groups,
        constants=_constants,
        compute=_compute,
        evaluate=_evaluate,
        onnx=_onnx,
        per_example=True,
    )
}
