"""The rules of ``scatter`` and its like, and of ``dynamic_update_slice``.

Dimensions along which whole slices are put into the operand are the same units in all three arrays,
such as features of messages that are summed over the edges of a graph, or the heads of a cache of
keys. Of dimensions that are indexed, all units are kept.
"""

from __future__ import annotations

import numpy as np

from sparsejax.graph._rule import (
    AxisConstants,
    ConstantFinder,
    Equation,
    Graph,
    GroupBuilder,
    Rule,
)

_SUMS = ("scatter-add", "scatter-sub")


def _update(equation: Equation) -> int:
    """Return the value that is put into the operand."""
    return equation.ins[1 if equation.name == "dynamic_update_slice" else 2]


def _pairs(graph: Graph, equation: Equation) -> list[tuple[int, int]]:
    """Return dimensions of the operand and of the update that are written as a whole."""
    operand, update = equation.ins[0], _update(equation)
    if equation.name == "dynamic_update_slice":
        pairs = [(axis, axis) for axis in range(len(graph.shapes[operand]))]
    else:
        numbers = equation.params["dimension_numbers"]
        absent = (*numbers.inserted_window_dims, *numbers.operand_batching_dims)
        window = [axis for axis in range(len(graph.shapes[operand])) if axis not in absent]
        pairs = [
            (axis, int(other))
            for axis, other in zip(window, numbers.update_window_dims, strict=True)
            if axis not in numbers.scatter_dims_to_operand_dims
        ]
    before, written = graph.lengths(operand), graph.lengths(update)
    return [(axis, other) for axis, other in pairs if before[axis] == written[other]]


def _groups(builder: GroupBuilder, equation: Equation) -> None:
    operand, update, (out,) = equation.ins[0], _update(equation), equation.outs
    pairs = _pairs(builder.graph, equation)
    builder.same_lengths(operand, out)
    for axis, other in pairs:
        builder.same(update, other, out, axis)
    free = {(operand, axis) for axis, _ in pairs} | {(update, other) for _, other in pairs}
    for value in equation.ins:
        axes = range(len(builder.graph.shapes[value]))
        builder.keep_whole(value, [axis for axis in axes if (value, axis) not in free])


def _constants(finder: ConstantFinder, equation: Equation) -> list[AxisConstants]:
    """A unit of one number stays one where that number is put in, or zeros are added."""
    if equation.params.get("update_jaxpr") is not None and equation.name not in _SUMS:
        return [{}]
    found = {}
    for axis, other in _pairs(finder.graph, equation):
        units = finder.along(equation.ins[0], axis)
        units = units.zeros() if equation.name in _SUMS else units
        written = finder.along(_update(equation), other)
        same = written.mask & np.equal(units.numbers, written.numbers)
        found[axis] = units._replace(mask=units.mask & same)
    return [found]


RULES = dict.fromkeys(
    (
        "scatter", "scatter-add", "scatter-max", "scatter-min", "scatter-mul", "scatter-sub",
        "dynamic_update_slice",
    ),
    Rule(groups=_groups, constants=_constants),
)  # fmt: skip
