"""The rule of ``max``, which ONNX writes as ``Relu`` where one operand is 0."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp

from sparsejax.graph._elementwise import elementwise
from sparsejax.graph._rule import Equation, OnnxBuilder
from sparsejax.graph._signs import Sign


def _onnx(builder: OnnxBuilder, equation: Equation) -> list[str]:
    """Runtimes fuse ``Relu``, but not ``Max``, with the layer before it."""
    for value, bound in (equation.ins, equation.ins[::-1]):
        is_zero = (
            bound in builder.known and not builder.graph.shapes[bound] and builder.known[bound] == 0
        )
        if is_zero and jnp.issubdtype(builder.graph.dtypes[value], jnp.floating):
            return [builder.node("Relu", builder.name(value))]
    return [builder.node("Max", *builder.operands(equation))]


def _sign(equation: Equation, signs: Sequence[Sign]) -> Sign:
    return max(signs)


RULES = {"max": elementwise(_onnx, sign=_sign)}
