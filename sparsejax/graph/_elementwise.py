"""The common part of the rules of elementwise primitives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sparsejax.graph._constants import ConstantUnits
from sparsejax.graph._rule import (
    AxisConstants,
    ConstantFinder,
    Equation,
    GroupBuilder,
    OnnxBuilder,
    OnnxRule,
    Rule,
)
from sparsejax.graph._signs import SignRule

Refine = Callable[[ConstantFinder, Equation, Sequence[ConstantUnits], ConstantUnits], ConstantUnits]

# NumPy rounds these as XLA does, and compiles no program for them.
_WITH_NUMPY: dict[str, Callable[..., Any]] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "max": np.maximum, "min": np.minimum,
    "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
}  # fmt: skip


def elementwise(
    onnx: OnnxRule | str | None = None, refine: Refine | None = None, sign: SignRule | None = None
) -> Rule:
    """Return the rule of an elementwise primitive.

    Args:
      onnx: the ONNX operator, or a function that writes it.
      refine: adds constant units to those at which all operands are constant, given the operands'
        units along a dimension of the result.
      sign: returns what is known of the signs of the results.
    """

    def constants(finder: ConstantFinder, equation: Equation) -> list[AxisConstants]:
        out = equation.outs[0]
        found = {}
        for axis, length in enumerate(finder.graph.shapes[out]):
            operands = [_along(finder, value, axis, length) for value in equation.ins]
            mask = np.logical_and.reduce([units.mask for units in operands])
            numbers = np.zeros(length, finder.graph.dtypes[out])
            if mask.any():
                numbers[mask] = _bind(equation, [units.numbers[mask] for units in operands])
            units = ConstantUnits(mask, numbers)
            found[axis] = refine(finder, equation, operands, units) if refine else units
        return [found]

    write = operator(onnx) if isinstance(onnx, str) else onnx
    return Rule(
        groups=_groups,
        constants=constants,
        sign=sign,
        compute=_compute,
        onnx=write,
        elementwise=True,
        per_example=True,
    )


def operator(name: str) -> OnnxRule:
    """Return the ONNX rule that applies one operator to all operands."""

    def write(builder: OnnxBuilder, equation: Equation) -> list[str]:
        return [builder.node(name, *builder.operands(equation))]

    return write


def _groups(builder: GroupBuilder, equation: Equation) -> None:
    for value in equation.ins:
        builder.same_lengths(value, equation.outs[0])


def _compute(finder: ConstantFinder, equation: Equation) -> list[np.ndarray]:
    return [_bind(equation, [finder.known[value] for value in equation.ins])]


def _bind(equation: Equation, arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Apply the primitive to arrays that are broadcast to one another; scalars stay scalars."""
    shape = np.broadcast_shapes(*(array.shape for array in arrays))
    arrays = [array if array.ndim == 0 else np.broadcast_to(array, shape) for array in arrays]
    if equation.name in _WITH_NUMPY:
        return np.asarray(_WITH_NUMPY[equation.name](*arrays))
    return equation.compute(arrays)[0]


def _along(finder: ConstantFinder, value: int, axis: int, length: int) -> ConstantUnits:
    """Return an operand's units along a dimension of the result, which it may be broadcast to."""
    shape = finder.graph.shapes[value]
    if shape and shape[axis] == length:
        return finder.along(value, axis)
    if value in finder.known and finder.known[value].size == 1:
        number = finder.known[value].reshape(())
        return ConstantUnits(np.ones(length, bool), np.broadcast_to(number, length))
    if shape:
        return finder.along(value, axis).broadcast(length)
    return ConstantUnits(np.zeros(length, bool), np.zeros(length, finder.graph.dtypes[value]))
