"""The rule of ``mul``: a unit that is constantly zero stays zero whatever it is multiplied by."""

from __future__ import annotations

from collections.abc import Sequence

from sparsejax.graph._constants import ConstantUnits
from sparsejax.graph._elementwise import elementwise
from sparsejax.graph._rule import ConstantFinder, Equation
from sparsejax.graph._signs import Sign, smallest


def _zeros(
    finder: ConstantFinder,
    equation: Equation,
    operands: Sequence[ConstantUnits],
    units: ConstantUnits,
) -> ConstantUnits:
    for operand in operands:
        units = units.with_zeros(operand.zeros().mask)
    return units


def _sign(equation: Equation, signs: Sequence[Sign]) -> Sign:
    one, other = equation.ins
    return max(signs[0], Sign.NONNEGATIVE) if one == other else smallest(equation, signs)


RULES = {"mul": elementwise("Mul", _zeros, _sign)}
