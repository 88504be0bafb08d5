"""The rules of ``argmax`` and ``argmin``: the units that are compared are numbered, so all stay."""

from __future__ import annotations

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


def _groups(builder: GroupBuilder, equation: Equation) -> None:
    value, left = equation.ins[0], remaining_axes(builder.graph, equation)
    builder.keep_whole(value, equation.params["axes"])
    builder.same_pairs(value, left, equation.outs[0], range(len(left)))


def _constants(finder: ConstantFinder, equation: Equation) -> list[AxisConstants]:
    """Find 0 where all entries are equal, as the first index counts, also among NaN."""
    dtype = finder.graph.dtypes[equation.outs[0]]
    found = finder.moved(equation.ins[0], remaining_axes(finder.graph, equation))
    return [
        {a: units._replace(numbers=np.zeros(len(units.mask), dtype)) for a, units in found.items()}
    ]


def _onnx(operator: str) -> OnnxRule:
    def write(builder: OnnxBuilder, equation: Equation) -> list[str]:
        (axis,) = equation.params["axes"]
        name = builder.node(operator, *builder.operands(equation), axis=int(axis), keepdims=0)
        return [builder.cast(name, np.dtype(np.int64), equation.params["index_dtype"])]

    return write


RULES = {
    "argmax": Rule(groups=_groups, constants=_constants, onnx=_onnx("ArgMax")),
    "argmin": Rule(groups=_groups, constants=_constants, onnx=_onnx("ArgMin")),
}
