"""The elementwise primitives, those with a file of their own among them."""

import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from sparsejax.graph import ELEMENTWISE, RULES, trace
from tests.graph.rules.brute_force import check, check_constants, check_live, check_onnx

VECTOR = np.asarray([0.5, 0.0, -2.0, 1.0, 0.0, 3.0], np.float32)

# Operations on numbers between -1 and 1 by the primitive that they are. Some are not injective, so
# they are added to the operand: a unit is alive if something reads it.
UNARY = {
    "abs": jnp.abs, "acos": jnp.arccos, "asin": jnp.arcsin, "asinh": jnp.arcsinh,
    "acosh": lambda h: jnp.arccosh(2 + h), "atan": jnp.arctan,
    "atanh": lambda h: jnp.arctanh(h / 2), "cbrt": lambda h: lax.cbrt(h), "ceil": jnp.ceil,
    "convert_element_type": lambda h: (3 * h).astype(jnp.int32), "copy": jnp.copy,
    "cos": jnp.cos, "cosh": jnp.cosh, "digamma": lambda h: lax.digamma(2 + h), "erf": lax.erf,
    "erf_inv": lambda h: lax.erf_inv(h / 2), "erfc": lax.erfc, "exp": jnp.exp, "exp2": jnp.exp2,
    "expm1": jnp.expm1, "floor": jnp.floor, "integer_pow": lambda h: h**3,
    "is_finite": jnp.isfinite, "lgamma": lambda h: lax.lgamma(2 + h),
    "log": lambda h: jnp.log(2 + h), "log1p": jnp.log1p, "logistic": lax.logistic,
    "neg": lambda h: -h, "not": lambda h: ~(h > 0), "reduce_precision": lambda h:
    lax.reduce_precision(h, 8, 4), "round": jnp.round, "rsqrt": lambda h: lax.rsqrt(2 + h),
    "sign": jnp.sign, "sin": jnp.sin, "sinh": jnp.sinh, "sqrt": lambda h: jnp.sqrt(1 + h),
    "square": jnp.square, "tan": jnp.tan, "tanh": jnp.tanh,
}  # fmt: skip
BINARY = {
    "add": lambda h: h + VECTOR, "sub": lambda h: VECTOR - h, "mul": lambda h: h * VECTOR,
    "div": lambda h: h / (VECTOR + 4), "max": lambda h: jnp.maximum(h, VECTOR),
    "min": lambda h: jnp.minimum(h, VECTOR), "atan2": lambda h: lax.atan2(h, h + 3),
    "pow": lambda h: (h + 2) ** VECTOR, "rem": lambda h: lax.rem(h, h + 4),
    "nextafter": lambda h: lax.nextafter(h, -h), "eq": lambda h: h == VECTOR,
    "ne": lambda h: h != VECTOR, "lt": lambda h: h < VECTOR, "le": lambda h: h <= VECTOR,
    "gt": lambda h: h > VECTOR, "ge": lambda h: h >= VECTOR,
    "and": lambda h: (h > 0) & (VECTOR > 0), "or": lambda h: (h > 0) | (VECTOR > 0),
    "xor": lambda h: (h > 0) ^ (VECTOR > 0),
    "clamp": lambda h: lax.clamp(-0.3, h, 0.4), "select_n": lambda h: jnp.where(h > 0, h, VECTOR),
    "complex": lambda h: lax.complex(h, h + 1), "stop_gradient": lax.stop_gradient,
}  # fmt: skip
WITHOUT_ONNX = {
    "atan2", "complex", "digamma", "erf_inv", "lgamma", "nextafter", "reduce_precision",
}  # fmt: skip
OPERATIONS = UNARY | BINARY


def as_float(function):
    return lambda h: h + jnp.real(function(h)).astype(h.dtype)


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_elementwise_primitive(name):
    graph = trace(lambda p, h: OPERATIONS[name](h), (), [np.ones((3, 2, 6), np.float32)])
    if name != "stop_gradient":  # which JAX traces as nothing
        assert name in {equation.name for equation in graph.equations}
        assert name in ELEMENTWISE
    check_live(as_float(OPERATIONS[name]), (6,), 0)
    check_constants(OPERATIONS[name], (6,), 1, complete=False)


def test_in_a_file():
    names = OPERATIONS.keys() - WITHOUT_ONNX
    assert {name for name in names if RULES[name].onnx is None} == set()
    assert {name for name in WITHOUT_ONNX if RULES[name].onnx is not None} == set()
    check_onnx(lambda h: [as_float(OPERATIONS[name])(h) for name in sorted(names)], (2, 6), 0)


def test_the_table_is_complete():
    parts = {"real", "imag", "conj", "add_any", "copy_p"}  # of complex numbers, derivatives, arrays
    assert ELEMENTWISE - OPERATIONS.keys() == parts


@pytest.mark.parametrize(
    "operation",
    [
        lambda h: h * VECTOR,
        lambda h: (h * VECTOR) / (1 + jnp.abs(VECTOR)),
        lambda h: jnp.where(VECTOR > 0, h, VECTOR),
        lambda h: jnp.where(VECTOR > 0, 2.0, h),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_zeros_and_choices_are_constant_whatever_the_other_operand_is(operation, seed):
    check(operation, (2, 6), seed)


def test_an_operand_of_lower_rank_and_of_length_one():
    column = np.asarray([[2.0], [0.0]], np.float32)
    check(lambda h: h * column + VECTOR[:5] * 2, (2, 5), complete=False)
