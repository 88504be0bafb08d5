"""The rule of ``div``: zero is zero, divided by what is known to be different from zero.

A dividend may keep more units than the quotient, because its norm or the sum of a softmax needs
them: weights of experts, of which only some have an output that is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sparsejax.graph._constants import ConstantUnits
from sparsejax.graph._elementwise import elementwise
from sparsejax.graph._rule import ConstantFinder, Equation, GroupBuilder, SlicedGraph
from sparsejax.graph._signs import Sign


def _zeros(
    finder: ConstantFinder,
    equation: Equation,
    operands: Sequence[ConstantUnits],
    units: ConstantUnits,
) -> ConstantUnits:
    divisor = finder.known.get(equation.ins[1])
    nonzero = finder.sign(equation.ins[1]) == Sign.POSITIVE if divisor is None else divisor.all()
    return units.with_zeros(operands[0].zeros().mask) if nonzero else units


def _sign(equation: Equation, signs: Sequence[Sign]) -> Sign:
    return signs[0] if signs[1] == Sign.POSITIVE else Sign.ANY


def _groups(builder: GroupBuilder, equation: Equation) -> None:
    (dividend, divisor), (out,) = equation.ins, equation.outs
    builder.same_lengths(divisor, out)
    if builder.is_fixed(divisor):
        builder.same_lengths(dividend, out)
        return
    lengths = builder.graph.shapes[out]
    for axis, length in enumerate(builder.graph.shapes[dividend]):
        if length == lengths[axis]:
            builder.slice((out, axis), (dividend, axis), range(length))


def _evaluate(sliced: SlicedGraph, equation: Equation, operands: Sequence[Any]) -> list[Any]:
    dividend, divisor = operands
    value, (out,) = equation.ins[0], equation.outs
    for axis, length in enumerate(sliced.graph.shapes[value]):
        kept = sliced.kept(out, axis)
        if sliced.kept(value, axis) is not None or (kept is not None and length != 1):
            wanted = np.arange(length) if kept is None else kept
            dividend = sliced.take(value, dividend, axis, wanted)
    return equation.apply([dividend, divisor])


_RULE = elementwise("Div", _zeros, _sign)
RULES = {"div": replace(_RULE, groups=_groups, evaluate=_evaluate)}
