"""The rule of ``select_n``, which is what ``jnp.where`` becomes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sparsejax.graph._constants import ConstantUnits
from sparsejax.graph._elementwise import elementwise
from sparsejax.graph._rule import ConstantFinder, Equation, OnnxBuilder
from sparsejax.graph._signs import Sign


def _selected(
    finder: ConstantFinder,
    equation: Equation,
    operands: Sequence[ConstantUnits],
    units: ConstantUnits,
) -> ConstantUnits:
    """Return the selected case of a constant predicate; otherwise equal cases are constant, too."""
    predicate, *cases = operands
    mask, numbers = units
    alike = np.logical_and.reduce(
        [case.mask & (case.numbers == cases[0].numbers) & ~mask for case in cases]
    )
    mask, numbers = mask | alike, np.where(alike, cases[0].numbers, numbers)
    for number, case in enumerate(cases):
        here = predicate.mask & (predicate.numbers == number) & case.mask & ~mask
        mask, numbers = mask | here, np.where(here, case.numbers, numbers)
    return ConstantUnits(mask, numbers)


def _onnx(builder: OnnxBuilder, equation: Equation) -> list[str]:
    predicate, *cases = builder.operands(equation)
    if builder.graph.dtypes[equation.ins[0]] != np.bool_ or len(cases) != 2:
        raise builder.refusal(equation, "by a number")
    return [builder.node("Where", predicate, cases[1], cases[0])]


def _sign(equation: Equation, signs: Sequence[Sign]) -> Sign:
    return min(signs[1:])


RULES = {"select_n": elementwise(_onnx, _selected, _sign)}
