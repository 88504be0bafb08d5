"""The rule of ``pad``: a number is put before, behind and between entries.

Dimensions that are padded between their entries, or cut by negative padding, are kept whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax import lax

from sparsejax.graph._constants import ConstantUnits
from sparsejax.graph._rule import (
    AxisConstants,
    ConstantFinder,
    Equation,
    GroupBuilder,
    OnnxBuilder,
    Rule,
    SlicedGraph,
)


def _groups(builder: GroupBuilder, equation: Equation) -> None:
    value, out = equation.ins[0], equation.outs[0]
    config = equation.params["padding_config"]
    for axis, (low, high, inside) in enumerate(config):
        if low < 0 or high < 0 or inside:
            builder.keep_whole(value, [axis])
            builder.keep_whole(out, [axis])
        elif low or high:
            length = builder.graph.shapes[value][axis]
            builder.slice((out, axis), (value, axis), range(length), int(low))
        else:
            builder.same(value, axis, out, axis)


def _constants(finder: ConstantFinder, equation: Equation) -> list[AxisConstants]:
    value, padding = equation.ins
    config = equation.params["padding_config"]
    if padding not in finder.known:
        return [{}]
    number = finder.known[padding].reshape(())
    padded = {axis for axis, amounts in enumerate(config) if any(amounts)}
    found = {}
    for axis, (low, high, inside) in enumerate(config):
        mask, numbers = finder.along(value, axis)
        if padded - {axis}:  # a unit holds the padding along other dimensions, too
            mask = mask & (numbers == number)
        if low < 0 or high < 0 or inside:
            continue
        around = int(low), int(high)
        found[axis] = ConstantUnits(
            np.pad(mask, around, constant_values=True),
            np.concatenate(
                [np.full(around[0], number), numbers, np.full(around[1], number)]
            ).astype(numbers.dtype),
        )
    return [found]


def _evaluate(sliced: SlicedGraph, equation: Equation, operands: Sequence[Any]) -> list[Any]:
    value, out = equation.ins[0], equation.outs[0]
    operand, padding = operands
    config = []
    for axis, (low, high, inside) in enumerate(equation.params["padding_config"]):
        kept, length = sliced.kept(out, axis), sliced.graph.shapes[value][axis]
        if (low or high) and (kept is not None or sliced.kept(value, axis) is not None):
            kept = np.arange(low + length + high) if kept is None else kept
            wanted = kept[(kept >= low) & (kept < low + length)] - low
            operand = sliced.take(value, operand, axis, wanted)
            low, high = (kept < low).sum(), (kept >= low + length).sum()
        config.append((int(low), int(high), int(inside)))
    return [lax.pad(operand, padding, config)]


def _onnx(builder: OnnxBuilder, equation: Equation) -> list[str]:
    value, padding = equation.ins
    config = equation.params["padding_config"]
    if any(inside for _, _, inside in config):
        raise builder.refusal(equation, "between entries")
    for axis, (low, high, _) in enumerate(config):
        if low or high:
            builder.require_fixed(equation, value, axis)
    pads = [int(low) for low, _, _ in config] + [int(high) for _, high, _ in config]
    if not any(pads):
        return [builder.name(value)]
    number = builder.name(padding)
    return [builder.node("Pad", builder.name(value), builder.integers(pads), number)]


RULES = {
    "pad": Rule(
        groups=_groups,
        constants=_constants,
        evaluate=_evaluate,
        onnx=_onnx,
        by_axis=("padding_config",),
    )
}
