"""The rules of elementwise primitives that need nothing of their own but an ONNX operator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sparsejax.graph._elementwise import elementwise
from sparsejax.graph._rule import Equation, Graph, MovedLeaf, OnnxBuilder

_OPERATORS = {
    "abs": "Abs", "add": "Add", "add_any": "Add", "and": "And", "ceil": "Ceil", "cos": "Cos",
    "eq": "Equal", "erf": "Erf", "exp": "Exp", "floor": "Floor", "ge": "GreaterOrEqual",
    "gt": "Greater", "le": "LessOrEqual", "log": "Log", "logistic": "Sigmoid", "lt": "Less",
    "min": "Min", "neg": "Neg", "not": "Not", "or": "Or", "pow": "Pow", "sign": "Sign",
    "sin": "Sin", "sqrt": "Sqrt", "sub": "Sub", "tanh": "Tanh",
}  # fmt: skip

_WITHOUT_ONNX = (
    "acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "cbrt", "complex", "conj", "cosh",
    "digamma", "erf_inv", "erfc", "exp2", "expm1", "imag", "is_finite", "lgamma", "log1p",
    "nextafter", "real", "reduce_precision", "rem", "round", "sinh", "tan", "xor",
)  # fmt: skip


def _identity(builder: OnnxBuilder, equation: Equation) -> list[str]:
    return builder.operands(equation)


def _not_equal(builder: OnnxBuilder, equation: Equation) -> list[str]:
    return [builder.node("Not", builder.node("Equal", *builder.operands(equation)))]


def _rsqrt(builder: OnnxBuilder, equation: Equation) -> list[str]:
    return [builder.node("Reciprocal", builder.node("Sqrt", *builder.operands(equation)))]


def _square(builder: OnnxBuilder, equation: Equation) -> list[str]:
    (operand,) = builder.operands(equation)
    return [builder.node("Mul", operand, operand)]


def _integer_pow(builder: OnnxBuilder, equation: Equation) -> list[str]:
    dtype = builder.graph.dtypes[equation.ins[0]]
    exponent = builder.constant(np.asarray(equation.params["y"], dtype))
    return [builder.node("Pow", *builder.operands(equation), exponent)]


def _clamp(builder: OnnxBuilder, equation: Equation) -> list[str]:
    low, operand, high = builder.operands(equation)
    return [builder.node("Min", builder.node("Max", operand, low), high)]


def _convert(builder: OnnxBuilder, equation: Equation) -> list[str]:
    return builder.cast_operands(equation, builder.operands(equation))


_COMPOSED = {
    "clamp": _clamp, "convert_element_type": _convert, "copy": _identity, "copy_p": _identity,
    "integer_pow": _integer_pow, "ne": _not_equal, "rsqrt": _rsqrt, "square": _square,
    "stop_gradient": _identity,
}  # fmt: skip

_FACTORED = ("convert_element_type", "copy", "copy_p", "stop_gradient")


def _each_factor(equation: Equation, operands: Sequence[Any]) -> Any:
    return operands[0].map(lambda factor: equation.apply([factor])[0])


def _unmoved(graph: Graph, equation: Equation, leaf: MovedLeaf) -> list[MovedLeaf | None]:
    return [leaf]


RULES = (
    dict.fromkeys(_WITHOUT_ONNX, elementwise())
    | {name: elementwise(operator) for name, operator in _OPERATORS.items()}
    | {name: elementwise(write) for name, write in _COMPOSED.items()}
)
RULES |= {name: replace(RULES[name], factored=_each_factor, moved=_unmoved) for name in _FACTORED}
