"""The rules of elementwise primitives that need nothing of their own but an ONNX operator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sparsejax.graph._elementwise import elementwise
from sparsejax.graph._onnx_elementwise import COMPOSED
from sparsejax.graph._rule import Equation, Graph, MovedLeaf
from sparsejax.graph._signs import Sign, SignRule, of_first, smallest

_OPERATORS = {
    "abs": "Abs", "acos": "Acos", "acosh": "Acosh", "add": "Add", "add_any": "Add", "and": "And",
    "asin": "Asin", "asinh": "Asinh", "atan": "Atan", "atanh": "Atanh", "ceil": "Ceil",
    "cos": "Cos", "cosh": "Cosh", "eq": "Equal", "erf": "Erf", "exp": "Exp", "floor": "Floor",
    "ge": "GreaterOrEqual", "gt": "Greater", "le": "LessOrEqual", "log": "Log",
    "logistic": "Sigmoid", "lt": "Less", "min": "Min", "neg": "Neg", "not": "Not", "or": "Or",
    "pow": "Pow", "sign": "Sign", "sin": "Sin", "sinh": "Sinh", "sqrt": "Sqrt", "sub": "Sub",
    "tan": "Tan", "tanh": "Tanh", "xor": "Xor",
}  # fmt: skip

_WITHOUT_ONNX = (
    "atan2", "complex", "conj", "digamma", "erf_inv", "imag", "lgamma", "nextafter", "real",
    "reduce_precision",
)  # fmt: skip


_FACTORED = ("convert_element_type", "copy", "copy_p", "stop_gradient")


def _each_factor(equation: Equation, operands: Sequence[Any]) -> Any:
    return operands[0].map(lambda factor: equation.apply([factor])[0])


def _unmoved(graph: Graph, equation: Equation, leaf: MovedLeaf) -> list[MovedLeaf | None]:
    return [leaf]


def _positive(equation: Equation, signs: Sequence[Sign]) -> Sign:
    return Sign.POSITIVE


def _even(equation: Equation, signs: Sequence[Sign]) -> Sign:
    return max(signs[0], Sign.NONNEGATIVE)


def _inverse(equation: Equation, signs: Sequence[Sign]) -> Sign:
    return signs[0] if signs[0] == Sign.POSITIVE else Sign.ANY


def _power(equation: Equation, signs: Sequence[Sign]) -> Sign:
    return (_inverse if equation.params["y"] % 2 else _even)(equation, signs)


def _sum(equation: Equation, signs: Sequence[Sign]) -> Sign:
    return max(signs) if min(signs) > Sign.ANY else Sign.ANY


_SIGNS: dict[str, SignRule] = (
    dict.fromkeys(("exp", "exp2", "logistic", "cosh"), _positive)
    | dict.fromkeys(("square", "abs"), _even)
    | dict.fromkeys((*_FACTORED, "sqrt", "tanh", "erf", "log1p", "expm1"), of_first)
    | {"add": _sum, "min": smallest, "integer_pow": _power, "rsqrt": _inverse, "pow": _inverse}
)

RULES = (
    {name: elementwise(sign=_SIGNS.get(name)) for name in _WITHOUT_ONNX}
    | {name: elementwise(operator, sign=_SIGNS.get(name)) for name, operator in _OPERATORS.items()}
    | {name: elementwise(write, sign=_SIGNS.get(name)) for name, write in COMPOSED.items()}
)
RULES |= {name: replace(RULES[name], factored=_each_factor, moved=_unmoved) for name in _FACTORED}
