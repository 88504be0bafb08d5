"""The rules of elementwise primitives that need nothing of their own but an ONNX operator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sparsejax.graph._elementwise import elementwise
from sparsejax.graph._onnx_elementwise import COMPOSED
from sparsejax.graph._rule import Equation, Graph, MovedLeaf

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


RULES = (
    dict.fromkeys(_WITHOUT_ONNX, elementwise())
    | {name: elementwise(operator) for name, operator in _OPERATORS.items()}
    | {name: elementwise(write) for name, write in COMPOSED.items()}
)
RULES |= {name: replace(RULES[name], factored=_each_factor, moved=_unmoved) for name in _FACTORED}
