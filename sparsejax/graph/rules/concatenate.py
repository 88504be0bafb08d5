"""The rule of ``concatenate``: the result's units are those of the operands, one after another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax import lax

from sparsejax.graph._constants import ConstantUnits
from sparsejax.graph._rule import (
    AxisConstants,
    ConstantFinder,
    Equation,
    GroupBuilder,
    OnnxBuilder,
    Rule,
    SlicedGraph,
)
from sparsejax.graph._signs import smallest


def _groups(builder: GroupBuilder, equation: Equation) -> None:
    out, chosen = equation.outs[0], equation.params["dimension"]
    start = 0
    for value in equation.ins:
        for axis, length in enumerate(builder.graph.shapes[value]):
            if axis != chosen:
                builder.same(value, axis, out, axis)
            else:
                builder.slice((out, axis), (value, axis), range(length), start)
                start += length


def _constants(finder: ConstantFinder, equation: Equation) -> list[AxisConstants]:
    found = {}
    for axis in range(len(finder.graph.shapes[equation.ins[0]])):
        pieces = [finder.along(value, axis) for value in equation.ins]
        if axis == equation.params["dimension"]:
            found[axis] = ConstantUnits(*map(np.concatenate, zip(*pieces, strict=True)))
        else:  # constant is what all pieces have in common
            first, *rest = pieces
            equal = [first.numbers == units.numbers for units in rest]
            mask = np.logical_and.reduce([units.mask for units in pieces] + equal)
            found[axis] = ConstantUnits(mask, first.numbers)
    return [found]


def _evaluate(sliced: SlicedGraph, equation: Equation, operands: Sequence[Any]) -> list[Any]:
    axis = equation.params["dimension"]
    kept = sliced.kept(equation.outs[0], axis)
    pieces, start = [], 0
    for value, operand in zip(equation.ins, operands, strict=True):
        length = sliced.graph.shapes[value][axis]
        wanted = np.arange(length)
        if kept is not None:
            wanted = kept[(kept >= start) & (kept < start + length)] - start
        if len(wanted):
            pieces.append(sliced.take(value, operand, axis, wanted))
        start += length
    return [lax.concatenate(pieces, axis)]


def _onnx(builder: OnnxBuilder, equation: Equation) -> list[str]:
    axis = int(equation.params["dimension"])
    return [builder.node("Concat", *builder.operands(equation), axis=axis)]


RULES = {
    "concatenate": Rule(
        groups=_groups, constants=_constants, sign=smallest, evaluate=_evaluate, onnx=_onnx
    )
}
