"""The rules of ``reduce_sum``, ``reduce_max``, ``reduce_min``, ``reduce_and`` and ``reduce_or``.

A unit that is constantly the neutral number, such as zero in a sum, changes no result. The number
that a sum is divided by for a mean belongs to the function and stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from sparsejax.graph._rule import (
    AxisConstants,
    ConstantFinder,
    Equation,
    GroupBuilder,
    OnnxBuilder,
    OnnxRule,
    Rule,
    remaining_axes,
)
from sparsejax.graph._signs import of_first


def _groups(builder: GroupBuilder, equation: Equation) -> None:
    left = remaining_axes(builder.graph, equation)
    builder.same_pairs(equation.ins[0], left, equation.outs[0], range(len(left)))
    builder.reduction(equation, equation.params["axes"])


def _read(neutral: Callable[[Any], Any]) -> Callable[[ConstantFinder, Equation], None]:
    """Record the units that change a result: all but those that hold the neutral number.

    Of a known value, each entry is looked at, so that units may leave together: a row whose only
    entries are in columns that leave, too.
    """

    def read(finder: ConstantFinder, equation: Equation) -> None:
        value, axes = equation.ins[0], equation.params["axes"]
        number = neutral(finder.graph.dtypes[value])
        finder.reduced[equation.number] = {}
        for axis in axes:
            if value in finder.known:
                rows = np.moveaxis(finder.whole(value) != number, axis, 0)
                others = [other + (other < axis) for other in axes if other != axis]
                changes = rows.any(tuple(others))
            else:
                mask, numbers = finder.along(value, axis)
                changes = ~(mask & (numbers == number))
            finder.reduced[equation.number][axis] = changes

    return read


def _lowest(dtype: Any) -> Any:
    return -np.inf if jnp.issubdtype(dtype, jnp.inexact) else jnp.iinfo(dtype).min


def _highest(dtype: Any) -> Any:
    return np.inf if jnp.issubdtype(dtype, jnp.inexact) else jnp.iinfo(dtype).max


def _constants(finder: ConstantFinder, equation: Equation) -> list[AxisConstants]:
    return [finder.moved(equation.ins[0], remaining_axes(finder.graph, equation))]


def _sum_constants(finder: ConstantFinder, equation: Equation) -> list[AxisConstants]:
    graph, value, axes = finder.graph, equation.ins[0], equation.params["axes"]
    found = finder.moved(value, remaining_axes(graph, equation))
    if any(graph.varies(value, axis) for axis in axes):  # the sum depends on the batch size
        return [{axis: units.zeros() for axis, units in found.items()}]
    count = math.prod(graph.shapes[value][axis] for axis in axes)
    return [{axis: units.times(count) for axis, units in found.items()}]


def _onnx(operator: str) -> OnnxRule:
    def write(builder: OnnxBuilder, equation: Equation) -> list[str]:
        (operand,) = builder.operands(equation)
        axes = equation.params["axes"]
        if not axes:  # in ONNX, no axes mean all
            return [operand]
        return [builder.node(operator, operand, builder.integers(axes), keepdims=0)]

    return write


def _rule(neutral: Callable[[Any], Any], operator: str = "", sums: bool = False) -> Rule:
    return Rule(
        groups=_groups,
        constants=_sum_constants if sums else _constants,
        read=_read(neutral),
        sign=of_first,
        onnx=_onnx(operator) if operator else None,
    )


RULES = {
    "reduce_sum": _rule(lambda dtype: 0, "ReduceSum", sums=True),
    "reduce_max": _rule(_lowest, "ReduceMax"),
    "reduce_min": _rule(_highest, "ReduceMin"),
    "reduce_and": _rule(lambda dtype: True),
    "reduce_or": _rule(lambda dtype: False),
}
