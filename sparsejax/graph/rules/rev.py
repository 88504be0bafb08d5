"""The rule of ``rev``: dimensions are reversed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax import lax

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
    value, out = equation.ins[0], equation.outs[0]
    for axis, length in enumerate(builder.graph.shapes[value]):
        if axis in equation.params["dimensions"]:
            builder.slice((out, axis), (value, axis), range(length)[::-1])
        else:
            builder.same(value, axis, out, axis)


def _constants(finder: ConstantFinder, equation: Equation) -> list[AxisConstants]:
    found = finder.all_along(equation.ins[0])
    reversed_axes = equation.params["dimensions"]
    return [found | {axis: found[axis].take(slice(None, None, -1)) for axis in reversed_axes}]


def _evaluate(sliced: SlicedGraph, equation: Equation, operands: Sequence[Any]) -> list[Any]:
    value, out, operand = equation.ins[0], equation.outs[0], operands[0]
    for axis in equation.params["dimensions"]:
        kept = sliced.kept(out, axis)
        if sliced.kept(value, axis) is None and kept is None:
            operand = lax.rev(operand, (axis,))
            continue
        length = sliced.graph.shapes[value][axis]
        wanted = length - 1 - (np.arange(length) if kept is None else kept)
        operand = sliced.take(value, operand, axis, wanted)
    return [operand]


def _onnx(builder: OnnxBuilder, equation: Equation) -> list[str]:
    value, axes = equation.ins[0], equation.params["dimensions"]
    for axis in axes:
        builder.require_fixed(equation, value, axis)
    return [builder.sliced(builder.name(value), [(int(axis), -1, -(2**31), -1) for axis in axes])]


RULES = {"rev": Rule(groups=_groups, constants=_constants, evaluate=_evaluate, onnx=_onnx)}
