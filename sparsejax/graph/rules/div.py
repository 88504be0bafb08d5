"""The rule of ``div``: zero is zero, divided by what is known to be different from zero."""

from __future__ import annotations

from collections.abc import Sequence

from sparsejax.graph._constants import ConstantUnits
from sparsejax.graph._elementwise import elementwise
from sparsejax.graph._rule import ConstantFinder, Equation
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


RULES = {"div": elementwise("Div", _zeros, _sign)}
