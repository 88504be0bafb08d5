"""The rules of ``reduce_window_sum``, ``reduce_window_max`` and ``reduce_window_min``."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from sparsejax.graph._rule import (
    AxisConstants,
    ConstantFinder,
    Equation,
    GroupBuilder,
    OnnxBuilder,
    Rule,
)


def _passes(equation: Equation, axis: int) -> bool:
    """Return whether windows leave a dimension as it is."""
    params = equation.params
    return (
        params["window_dimensions"][axis] == 1
        and params["window_strides"][axis] == 1
        and params["base_dilation"][axis] == 1
        and not any(params["padding"][axis])
    )


def _groups(builder: GroupBuilder, equation: Equation) -> None:
    value, out = equation.ins[0], equation.outs[0]
    for axis in range(len(builder.graph.shapes[value])):
        if _passes(equation, axis):
            builder.same(value, axis, out, axis)
        else:
            builder.keep_whole(value, [axis])
            builder.keep_whole(out, [axis])


def _constants(finder: ConstantFinder, equation: Equation) -> list[AxisConstants]:
    params, found = equation.params, {}
    inserted = any(map(any, params["padding"])) or any(n != 1 for n in params["base_dilation"])
    for axis, units in finder.all_along(equation.ins[0]).items():
        if not _passes(equation, axis):
            continue
        if equation.name == "reduce_window_sum":
            units = units.zeros() if inserted else units
            units = units.times(math.prod(params["window_dimensions"]))
        elif inserted:  # a window may lie in the padding alone
            units = units._replace(mask=np.zeros_like(units.mask))
        found[axis] = units
    return [found]


def _onnx(builder: OnnxBuilder, equation: Equation) -> list[str]:
    """ONNX pools over all dimensions behind the first two; windows of length 1 change nothing."""
    params, (value,) = equation.params, equation.ins
    rank = len(builder.graph.shapes[value])
    others = [axis for axis in range(rank) if _passes(equation, axis)]
    if len(others) < 2:
        raise builder.refusal(equation, "over all dimensions but one")
    order = [others[0], others[-1]]
    order += [axis for axis in range(rank) if axis not in order]
    spatial = order[2:]
    if not spatial:
        return [builder.name(value)]
    for axis in set(range(rank)) - set(others):
        builder.require_fixed(equation, value, axis)
    window = [int(params["window_dimensions"][axis]) for axis in spatial]
    pads = [params["padding"][axis] for axis in spatial]
    if any(params["base_dilation"][axis] != 1 for axis in spatial):
        raise builder.refusal(equation, "with base_dilation")
    for length, (low, high) in zip(window, pads, strict=True):
        if not (0 <= low < length and 0 <= high < length):
            what = f"with padding {(int(low), int(high))} of windows of {length}"
            raise builder.refusal(equation, what)
    counts = _counts(builder, equation, spatial)
    if not counts.all():
        raise builder.refusal(equation, "with windows in the padding alone")
    attributes = {
        "kernel_shape": window,
        "strides": [int(params["window_strides"][axis]) for axis in spatial],
        "dilations": [int(params["window_dilation"][axis]) for axis in spatial],
        "pads": [int(low) for low, _ in pads] + [int(high) for _, high in pads],
    }
    operand = builder.transposed(value, order)
    if equation.name == "reduce_window_max":
        result = builder.node("MaxPool", operand, **attributes)
    elif equation.name == "reduce_window_min":
        negative = builder.node("MaxPool", builder.node("Neg", operand), **attributes)
        result = builder.node("Neg", negative)
    else:
        result = _sum(builder, operand, counts.astype(builder.graph.dtypes[value]), attributes)
    return [builder.untransposed(result, order)]


def _sum(builder: OnnxBuilder, operand: str, counts: np.ndarray, attributes: dict[str, Any]) -> str:
    """Write the sum as the mean times the count, up to rounding.

    onnxruntime up to 1.24 divides by wrong counts where zeros of the padding count in the mean and
    the two ends of a dimension are padded differently (its issue 26708). Here they do not count.
    A ``Pad`` before an ``AveragePool`` without padding becomes such padding in onnxruntime; a
    ``Mul`` between the two keeps them apart.
    """
    count = builder.constant(counts)
    if not counts.ndim and any(node.operator == "Pad" for node in builder.nodes):
        return builder.node("AveragePool", builder.node("Mul", operand, count), **attributes)
    return builder.node("Mul", builder.node("AveragePool", operand, **attributes), count)


def _counts(builder: OnnxBuilder, equation: Equation, axes: list[int]) -> np.ndarray:
    """Return how many entries each window along the axes holds: a scalar without padding."""
    params = equation.params
    window = params["window_dimensions"]
    if not any(any(params["padding"][axis]) for axis in axes):
        return np.asarray(math.prod(window[axis] for axis in axes))
    counts = np.ones((), int)
    for axis in axes:
        starts = np.arange(builder.graph.shapes[equation.outs[0]][axis])
        starts = starts * params["window_strides"][axis] - params["padding"][axis][0]
        read = starts[:, None] + np.arange(window[axis]) * params["window_dilation"][axis]
        real = (read >= 0) & (read < builder.graph.shapes[equation.ins[0]][axis])
        counts = np.multiply.outer(counts, real.sum(1))
    return counts


_RULE = Rule(groups=_groups, constants=_constants, onnx=_onnx)
RULES = dict.fromkeys(("reduce_window_sum", "reduce_window_max", "reduce_window_min"), _RULE)
