"""Elementwise primitives that ONNX has no operator for, composed of those that it has."""

from __future__ import annotations

from typing import Any

import numpy as np
from jax import lax

from sparsejax.graph._graph import Equation
from sparsejax.graph._onnx_builder import OnnxBuilder


def _number(builder: OnnxBuilder, equation: Equation, number: Any) -> str:
    """Store a number in the dtype of the operand."""
    return builder.constant(np.asarray(number, builder.graph.dtypes[equation.ins[0]]))


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
    exponent = _number(builder, equation, equation.params["y"])
    return [builder.node("Pow", *builder.operands(equation), exponent)]


def _clamp(builder: OnnxBuilder, equation: Equation) -> list[str]:
    low, operand, high = builder.operands(equation)
    return [builder.node("Min", builder.node("Max", operand, low), high)]


def _convert(builder: OnnxBuilder, equation: Equation) -> list[str]:
    return builder.cast_operands(equation, builder.operands(equation))


def _exp2(builder: OnnxBuilder, equation: Equation) -> list[str]:
    return [builder.node("Pow", _number(builder, equation, 2), *builder.operands(equation))]


def _expm1(builder: OnnxBuilder, equation: Equation) -> list[str]:
    """Write tanh(x / 2) (exp(x) + 1), in which nothing cancels near 0."""
    (operand,) = builder.operands(equation)
    half = builder.node("Mul", operand, _number(builder, equation, 0.5))
    more = builder.node("Add", builder.node("Exp", operand), _number(builder, equation, 1))
    return [builder.node("Mul", builder.node("Tanh", half), more)]


def _log1p(builder: OnnxBuilder, equation: Equation) -> list[str]:
    """Write log(u) x / (u - 1) for u = 1 + x, which makes up for the rounding of u.

    Where u is exact, log(u) alone is right, also at infinity; where it rounds to 1, x is.
    """
    (operand,) = builder.operands(equation)
    one = _number(builder, equation, 1)
    rounded = builder.node("Add", operand, one)
    back, log = builder.node("Sub", rounded, one), builder.node("Log", rounded)
    scaled = builder.node("Mul", log, builder.node("Div", operand, back))
    found = builder.node("Where", builder.node("Equal", back, operand), log, scaled)
    tiny = builder.node("Equal", back, _number(builder, equation, 0))
    return [builder.node("Where", tiny, operand, found)]


def _erfc(builder: OnnxBuilder, equation: Equation) -> list[str]:
    erf = builder.node("Erf", *builder.operands(equation))
    return [builder.node("Sub", _number(builder, equation, 1), erf)]


def _round(builder: OnnxBuilder, equation: Equation) -> list[str]:
    """ONNX rounds halves to even numbers; away from zero it is written with ``Floor``."""
    (operand,) = builder.operands(equation)
    if equation.params["rounding_method"] == lax.RoundingMethod.TO_NEAREST_EVEN:
        return [builder.node("Round", operand)]
    size = builder.node("Abs", operand)
    floor = builder.node("Floor", size)
    rest = builder.node("Sub", size, floor)
    up = builder.node("GreaterOrEqual", rest, _number(builder, equation, 0.5))
    above = builder.node("Add", floor, _number(builder, equation, 1))
    return [
        builder.node("Mul", builder.node("Sign", operand), builder.node("Where", up, above, floor))
    ]


def _cbrt(builder: OnnxBuilder, equation: Equation) -> list[str]:
    (operand,) = builder.operands(equation)
    size = builder.node("Pow", builder.node("Abs", operand), _number(builder, equation, 1 / 3))
    return [builder.node("Mul", builder.node("Sign", operand), size)]


def _is_finite(builder: OnnxBuilder, equation: Equation) -> list[str]:
    (operand,) = builder.operands(equation)
    either = builder.node("Or", builder.node("IsInf", operand), builder.node("IsNaN", operand))
    return [builder.node("Not", either)]


def _rem(builder: OnnxBuilder, equation: Equation) -> list[str]:
    return [builder.node("Mod", *builder.operands(equation), fmod=1)]


COMPOSED = {
    "cbrt": _cbrt, "clamp": _clamp, "convert_element_type": _convert, "copy": _identity,
    "copy_p": _identity, "erfc": _erfc, "exp2": _exp2, "expm1": _expm1,
    "integer_pow": _integer_pow, "is_finite": _is_finite, "log1p": _log1p, "ne": _not_equal,
    "rem": _rem, "round": _round, "rsqrt": _rsqrt, "square": _square, "stop_gradient": _identity,
}  # fmt: skip
"""The ONNX rules by the name of the primitive."""
