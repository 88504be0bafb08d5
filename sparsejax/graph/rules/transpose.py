"""The rule of ``transpose``: each dimension of the result is one of the operand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sparsejax.graph._rule import (
    AxisConstants,
    ConstantFinder,
    Equation,
    Graph,
    GroupBuilder,
    MovedLeaf,
    OnnxBuilder,
    Rule,
)
from sparsejax.graph._signs import of_first


def _groups(builder: GroupBuilder, equation: Equation) -> None:
    order = equation.params["permutation"]
    builder.same_pairs(equation.ins[0], order, equation.outs[0], range(len(order)))


def _constants(finder: ConstantFinder, equation: Equation) -> list[AxisConstants]:
    return [finder.moved(equation.ins[0], equation.params["permutation"])]


def _compute(finder: ConstantFinder, equation: Equation) -> list[np.ndarray]:
    return [np.transpose(finder.known[equation.ins[0]], equation.params["permutation"])]


def _onnx(builder: OnnxBuilder, equation: Equation) -> list[str]:
    return [builder.transposed(equation.ins[0], equation.params["permutation"])]


def _factored(equation: Equation, operands: Sequence[Any]) -> Any:
    return operands[0].transposed(equation.params["permutation"])


def _moved(graph: Graph, equation: Equation, leaf: MovedLeaf) -> list[MovedLeaf | None]:
    return [leaf.transposed(equation.params["permutation"])]


RULES = {
    "transpose": Rule(
        groups=_groups,
        sign=of_first,
        constants=_constants,
        compute=_compute,
        onnx=_onnx,
        factored=_factored,
        moved=_moved,
        per_example=True,
    )
}
