"""The rule of ``conv_general_dilated``, a contraction where it has one group and known weights."""

from __future__ import annotations

import math

from sparsejax.graph._rule import (
    AxisConstants,
    ConstantFinder,
    Contraction,
    Equation,
    Graph,
    GroupBuilder,
    OnnxBuilder,
    Rule,
)


def _contraction(graph: Graph, equation: Equation, known: tuple[bool, bool]) -> Contraction | None:
    params = equation.params
    if known != (False, True):
        return None
    if params["feature_group_count"] != 1 or params["batch_group_count"] != 1:
        return None
    lhs, rhs, out = params["dimension_numbers"]
    padded = any(map(any, params["padding"])) or any(n != 1 for n in params["lhs_dilation"])
    left, right = equation.ins
    return Contraction(left, lhs[1], right, rhs[1], (rhs[0],), (out[1],), tuple(rhs[2:]), padded)


def _groups(builder: GroupBuilder, equation: Equation) -> None:
    (left, right), out = equation.ins, equation.outs[0]
    specs = equation.params["dimension_numbers"]
    contraction = builder.contractions.get(equation.number)
    for value, spec in zip((left, right, out), specs, strict=True):
        builder.keep_whole(value, spec[2:])
        if contraction is None:
            builder.unsupported(equation, value, spec[:2])
    if contraction is not None:
        lhs, rhs, result = specs
        builder.same(left, lhs[0], out, result[0])
        builder.same(right, rhs[0], out, result[1])
        builder.contraction(equation, contraction)


def _constants(finder: ConstantFinder, equation: Equation) -> list[AxisConstants]:
    return finder.contracted(equation)


def _multiply_accumulates(graph: Graph, equation: Equation) -> int:
    weights = graph.shapes[equation.ins[1]]
    units = equation.params["dimension_numbers"].rhs_spec[0]
    each = (length for axis, length in enumerate(weights) if axis != units)
    return math.prod((*graph.shapes[equation.outs[0]], *each))


def _onnx(builder: OnnxBuilder, equation: Equation) -> list[str]:
    params, (left, right) = equation.params, equation.ins
    numbers, pads = params["dimension_numbers"], params["padding"]
    if params["batch_group_count"] != 1:
        raise builder.refusal(equation, "in groups of the batch")
    if any(n != 1 for n in params["lhs_dilation"]):
        raise builder.refusal(equation, "with lhs_dilation")
    if min(map(min, pads), default=0) < 0:
        raise builder.refusal(equation, "with negative padding")
    for axis in numbers.lhs_spec[1:]:
        builder.require_fixed(equation, left, axis)
    operands = (
        builder.transposed(left, numbers.lhs_spec),
        builder.transposed(right, numbers.rhs_spec),
    )
    result = builder.node(
        "Conv",
        *builder.cast_operands(equation, operands),
        strides=[int(n) for n in params["window_strides"]],
        dilations=[int(n) for n in params["rhs_dilation"]],
        pads=[int(low) for low, _ in pads] + [int(high) for _, high in pads],
        group=int(params["feature_group_count"]),
    )
    return [builder.untransposed(result, numbers.out_spec)]


RULES = {
    "conv_general_dilated": Rule(
        groups=_groups,
        constants=_constants,
        onnx=_onnx,
        contraction=_contraction,
        multiply_accumulates=_multiply_accumulates,
    )
}
