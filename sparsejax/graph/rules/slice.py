"""The rule of ``slice``: static starts, limits and strides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax import lax

from sparsejax.graph._rule import (
    AxisConstants,
    ConstantFinder,
    Equation,
    GroupBuilder,
    OnnxBuilder,
    Rule,
    SlicedGraph,
)


def _bounds(equation: Equation) -> list[tuple[Any, Any, Any]]:
    """Return the start, limit and stride of each dimension."""
    params = equation.params
    strides = params["strides"] or (1,) * len(params["start_indices"])
    return list(zip(params["start_indices"], params["limit_indices"], strides, strict=True))


def _groups(builder: GroupBuilder, equation: Equation) -> None:
    value, out = equation.ins[0], equation.outs[0]
    for axis, (start, _, stride) in enumerate(_bounds(equation)):
        builder.slice_or_same((out, axis), (value, axis), start, stride)


def _constants(finder: ConstantFinder, equation: Equation) -> list[AxisConstants]:
    return [
        {
            axis: finder.along(equation.ins[0], axis).take(slice(start, limit, stride))
            for axis, (start, limit, stride) in enumerate(_bounds(equation))
        }
    ]


def _evaluate(sliced: SlicedGraph, equation: Equation, operands: Sequence[Any]) -> list[Any]:
    """Slice the dimensions that keep all of their units; of others, take the kept units."""
    value, out, operand = equation.ins[0], equation.outs[0], operands[0]
    bounds, taken = _bounds(equation), []
    for axis, length in enumerate(operand.shape):
        same = sliced.graph.shapes[value][axis] == sliced.graph.shapes[out][axis]
        source, kept = sliced.kept(value, axis), sliced.kept(out, axis)
        if same or source is not None or kept is not None:
            if not same:
                indices = np.arange(*bounds[axis])
                taken.append((axis, indices if kept is None else indices[kept]))
            bounds[axis] = 0, length, 1
    result = lax.slice(operand, *zip(*bounds, strict=True))
    for axis, wanted in taken:
        result = sliced.take(value, result, axis, wanted)
    return [result]


def _onnx(builder: OnnxBuilder, equation: Equation) -> list[str]:
    (value,), (out,) = equation.ins, equation.outs
    cuts = []
    for axis, (start, limit, stride) in enumerate(_bounds(equation)):
        whole = (start, limit, stride) == (0, builder.graph.shapes[value][axis], 1)
        if whole and builder.multiples[value][axis] == builder.multiples[out][axis]:
            continue
        builder.require_fixed(equation, value, axis)
        builder.require_fixed(equation, out, axis)
        cuts.append((axis, int(start), int(limit), int(stride)))
    return [builder.sliced(builder.name(value), cuts)]


RULES = {
    "slice": Rule(
        groups=_groups,
        constants=_constants,
        evaluate=_evaluate,
        onnx=_onnx,
        by_axis=("start_indices", "limit_indices"),
    )
}
