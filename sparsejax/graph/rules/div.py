"""The rule of ``div``: zero divided by known numbers other than zero is zero."""

from __future__ import annotations

from collections.abc import Sequence

from sparsejax.graph._constant_finder import ConstantUnits
from sparsejax.graph._elementwise import elementwise
from sparsejax.graph._rule import ConstantFinder, Equation


def _zeros(
    finder: ConstantFinder,
    equation: Equation,
    operands: Sequence[ConstantUnits],
    units: ConstantUnits,
) -> ConstantUnits:
    divisor = finder.known.get(equation.ins[1])
    if divisor is None or (divisor == 0).any():
        return units
    return units.with_zeros(operands[0].zeros().mask)


RULES = {"div": elementwise("Div", _zeros)}
