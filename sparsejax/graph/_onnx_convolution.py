"""Convolutions in ONNX: ``Conv``, and ``ConvTranspose`` for dilated operands."""

from __future__ import annotations

from typing import Any

import numpy as np

from sparsejax.graph._graph import Equation
from sparsejax.graph._onnx_builder import OnnxBuilder


def write_convolution(builder: OnnxBuilder, equation: Equation) -> list[str]:
    """Append the nodes of ``conv_general_dilated`` and return the name of the result."""
    params, (left, _) = equation.params, equation.ins
    if params["batch_group_count"] != 1:
        raise builder.refusal(equation, "in groups of the batch")
    for axis in params["dimension_numbers"].lhs_spec[1:]:
        builder.require_fixed(equation, left, axis)
    dilated = any(n != 1 for n in params["lhs_dilation"])
    result = (_transposed if dilated else _plain)(builder, equation)
    return [builder.untransposed(result, params["dimension_numbers"].out_spec)]


def _plain(builder: OnnxBuilder, equation: Equation) -> str:
    params, (left, right) = equation.params, equation.ins
    numbers, pads = params["dimension_numbers"], params["padding"]
    if min(map(min, pads), default=0) < 0:
        raise builder.refusal(equation, "with negative padding")
    operands = (
        builder.transposed(left, numbers.lhs_spec),
        builder.transposed(right, numbers.rhs_spec),
    )
    return builder.node(
        "Conv",
        *builder.cast_operands(equation, operands),
        strides=[int(n) for n in params["window_strides"]],
        dilations=[int(n) for n in params["rhs_dilation"]],
        pads=_ends(pads),
        group=int(params["feature_group_count"]),
    )


def _transposed(builder: OnnxBuilder, equation: Equation) -> str:
    """Write a convolution of a dilated operand as a transposed one with the kernel reversed.

    ``ConvTranspose`` without padding returns all positions at which a window meets an entry. A
    convolution that pads by p, with a window that reaches over r positions, returns r - p fewer.
    """
    params, (left, right) = equation.params, equation.ins
    if right not in builder.known:
        raise builder.refusal(equation, "of a dilated operand with weights that are not known")
    numbers = params["dimension_numbers"]
    kernel = np.transpose(np.asarray(builder.known[right]), numbers.rhs_spec)
    written, read, *window = kernel.shape
    groups, spatial = int(params["feature_group_count"]), range(len(window))
    # [groups * written, read, *window] becomes [groups * read, written, *window].
    parts = kernel.reshape(groups, written // groups, read, *window).swapaxes(1, 2)
    kernel = np.flip(parts.reshape(-1, written // groups, *window), tuple(2 + i for i in spatial))
    reach = [(n - 1) * d for n, d in zip(window, params["rhs_dilation"], strict=True)]
    less = [(r - low, r - high) for r, (low, high) in zip(reach, params["padding"], strict=True)]
    operands = builder.transposed(left, numbers.lhs_spec), builder.stored(right, kernel)
    result = builder.node(
        "ConvTranspose",
        *builder.cast_operands(equation, operands),
        strides=[int(n) for n in params["lhs_dilation"]],
        dilations=[int(n) for n in params["rhs_dilation"]],
        pads=_ends([(max(low, 0), max(high, 0)) for low, high in less]),
        group=groups,
    )
    more = _ends([(0, 0), (0, 0), *((max(-low, 0), max(-high, 0)) for low, high in less)])
    if any(more):
        zero = builder.constant(np.zeros((), builder.graph.dtypes[equation.outs[0]]))
        result = builder.node("Pad", result, builder.integers(more), zero)
    strides = enumerate(params["window_strides"], 2)
    return builder.sliced(result, [(i, 0, 2**31 - 1, int(n)) for i, n in strides if n != 1])


def _ends(pads: Any) -> list[int]:
    """Return pads as ONNX orders them: all low ends, then all high ends."""
    return [int(low) for low, _ in pads] + [int(high) for _, high in pads]
