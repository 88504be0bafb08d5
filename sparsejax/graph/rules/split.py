"""The rule of ``split``: consecutive slices of one dimension."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from sparsejax.graph._rule import (
    AxisConstants,
    ConstantFinder,
    Equation,
    GroupBuilder,
    OnnxBuilder,
    Rule,
    SlicedGraph,
)


def _ranges(equation: Equation) -> list[tuple[int, int]]:
    """Return the start and end of each result."""
    ends = np.cumsum([0, *equation.params["sizes"]]).tolist()
    return list(itertools.pairwise(ends))


def _groups(builder: GroupBuilder, equation: Equation) -> None:
    value, chosen = equation.ins[0], equation.params["axis"]
    for out, (start, end) in zip(equation.outs, _ranges(equation), strict=True):
        for axis in range(len(builder.graph.shapes[value])):
            if axis != chosen:
                builder.same(value, axis, out, axis)
        builder.slice((out, chosen), (value, chosen), range(start, end))


def _constants(finder: ConstantFinder, equation: Equation) -> list[AxisConstants]:
    chosen, whole = equation.params["axis"], finder.all_along(equation.ins[0])
    return [
        whole | {chosen: whole[chosen].take(slice(start, end))} for start, end in _ranges(equation)
    ]


def _evaluate(sliced: SlicedGraph, equation: Equation, operands: Sequence[Any]) -> list[Any]:
    axis, value, found = equation.params["axis"], equation.ins[0], []
    for out, (start, end) in zip(equation.outs, _ranges(equation), strict=True):
        kept = sliced.kept(out, axis)
        wanted = np.arange(start, end) if kept is None else start + kept
        found.append(sliced.take(value, operands[0], axis, wanted))
    return found


def _onnx(builder: OnnxBuilder, equation: Equation) -> list[str]:
    axis, (value,) = int(equation.params["axis"]), equation.ins
    builder.require_fixed(equation, value, axis)
    name = builder.name(value)
    return [builder.sliced(name, [(axis, start, end, 1)]) for start, end in _ranges(equation)]


RULES = {
    "split": Rule(
        groups=_groups, constants=_constants, evaluate=_evaluate, onnx=_onnx, lengths="sizes"
    )
}
