"""The rule of ``mul``: a unit that is constantly zero stays zero whatever it is multiplied by."""

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
    for operand in operands:
        units = units.with_zeros(operand.zeros().mask)
    return units


RULES = {"mul": elementwise("Mul", _zeros)}
