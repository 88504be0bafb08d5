"""The rule of ``scan``: units leave that are dead in every step.

The dimensions of the carry before and after a step are the same units; those of what a step reads
of an operand, or writes of a result, are the dimensions of the whole but the first one, which is
kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jax import lax

from sparsejax.graph._constants import Constants, ConstantUnits
from sparsejax.graph._contraction import Weights
from sparsejax.graph._graph import Body
from sparsejax.graph._rule import (
    AxisConstants,
    ConstantFinder,
    Equation,
    GroupBuilder,
    OnnxBuilder,
    Rule,
    SlicedGraph,
)


def _body(equation: Equation) -> Body:
    assert equation.body is not None
    return equation.body


def _groups(builder: GroupBuilder, equation: Equation) -> None:
    body, carry = _body(equation), equation.carry()
    operands = zip(equation.ins, body.ins, strict=True)
    results = zip(equation.outs, body.outs, strict=True)
    for pairs, first_slice in ((operands, carry.stop), (results, len(carry))):
        for place, (outer, inner) in enumerate(pairs):
            behind = int(place >= first_slice)
            builder.keep_whole(outer, range(behind))
            axes = range(len(builder.graph.shapes[inner]))
            builder.same_pairs(outer, [axis + behind for axis in axes], inner, axes)
    for place, after in zip(carry, body.outs, strict=False):
        axes = range(len(builder.graph.shapes[after]))
        builder.same_pairs(body.ins[place], axes, after, axes)
    builder.visit(body.equations)


def _read(finder: ConstantFinder, equation: Equation) -> None:
    """Find what is constant in every step.

    Units of the carry are taken to be constant that are so at first, until a round over all steps
    shows that each step leaves all of them as they are.
    """
    body, carry = _body(equation), equation.carry()
    outside: dict[int, AxisConstants] = {
        inner: finder.all_along(outer)
        for outer, inner in zip(equation.ins[: carry.stop], body.ins, strict=False)
        if not finder.fixed[inner]
    }
    slices = [*zip(equation.ins[carry.stop :], body.ins[carry.stop :], strict=True)]
    for outer, inner in slices:
        if not finder.fixed[inner]:
            units = finder.all_along(outer)
            outside[inner] = {axis - 1: one for axis, one in units.items() if axis}
    # Without fixed slices, such as weights of stacked layers, all steps are alike.
    steps = max(1, *(len(finder.known[o]) for o, inner in slices if finder.fixed[inner]), 0)
    found: Constants | None = None
    outs: list[AxisConstants] = []
    while found is None:
        changed = False
        for step in range(steps):
            here, results = finder.step(body, _known(finder, equation, step), outside)
            found = here if found is None else _in_both(found, here)
            outs = list(map(_units_in_both, outs, results)) if step else results
            for place, after in zip(carry, results, strict=False):
                inner = body.ins[place]
                stays = _units_in_both(outside[inner], after)
                changed |= _count(stays) < _count(outside[inner])
                outside[inner] = stays
        found = None if changed else found
    finder.add(found)
    finder.loops[equation.number] = [outside[body.ins[place]] for place in carry] + [
        {axis + 1: units for axis, units in one.items()} for one in outs[len(carry) :]
    ]


def _known(finder: ConstantFinder, equation: Equation, step: int) -> dict[int, np.ndarray]:
    """Return the arrays of the fixed inputs of a step."""
    body, carry = _body(equation), equation.carry()
    known = {}
    for place, (outer, inner) in enumerate(zip(equation.ins, body.ins, strict=True)):
        if finder.fixed[inner]:
            array = finder.known[outer]
            if place >= carry.stop:
                empty = np.zeros(array.shape[1:], array.dtype)
                array = array[min(step, len(array) - 1)] if len(array) else empty
            known[inner] = array
    return known


def _count(units: AxisConstants) -> int:
    return sum(int(one.mask.sum()) for one in units.values())


def _units_in_both(one: AxisConstants, other: AxisConstants) -> AxisConstants:
    """Return the units that are the same constant in two steps."""
    found = {}
    for axis in one.keys() & other.keys():
        equal = one[axis].numbers == other[axis].numbers
        found[axis] = ConstantUnits(one[axis].mask & other[axis].mask & equal, one[axis].numbers)
    return found


def _in_both(one: Constants, other: Constants) -> Constants:
    """Return what holds in two steps, and what either of them reads."""
    return Constants(
        {value: _units_in_both(one.units[value], other.units[value]) for value in one.units},
        {
            number: Weights(weights.nonzero | other.weights[number].nonzero, weights.array)
            for number, weights in one.weights.items()
        },
        {
            number: indices
            for number, indices in one.indices.items()
            if number in other.indices and indices.same(other.indices[number])
        },
        {number: one.products[number] + other.products[number] for number in one.products},
        {
            number: {axis: mask | other.reduced[number][axis] for axis, mask in masks.items()}
            for number, masks in one.reduced.items()
        },
    )


def _constants(finder: ConstantFinder, equation: Equation) -> list[AxisConstants]:
    return finder.loops[equation.number]


def _evaluate(sliced: SlicedGraph, equation: Equation, operands: Sequence[Any]) -> list[Any]:
    body, carry, params = _body(equation), equation.carry(), equation.params
    consts = operands[: carry.start]

    def step(before: list[Any], slices: list[Any]) -> tuple[list[Any], list[Any]]:
        given: Mapping[int, Any] = dict(zip(body.ins, [*consts, *before, *slices], strict=True))
        results = sliced.run(body.equations, given, body.outs)
        return results[: len(carry)], results[len(carry) :]

    static = {name: params[name] for name in ("length", "reverse", "unroll")}
    first, slices = list(operands[carry.start : carry.stop]), list(operands[carry.stop :])
    after, stacked = lax.scan(step, first, slices, **static)
    return [*after, *stacked]


def _onnx(builder: OnnxBuilder, equation: Equation) -> list[str]:
    """Write the steps one after another."""
    body, carry, params = _body(equation), equation.carry(), equation.params
    operands = [*zip(equation.ins, body.ins, strict=True)]
    for outer, inner in operands[: carry.start]:
        builder.alias(inner, outer)
    for outer, _ in operands[carry.stop :]:
        builder.require_fixed(equation, outer, 0)
    state = [builder.name(outer) for outer, _ in operands[carry.start : carry.stop]]
    made = [value for each in body.equations for value in each.outs]
    steps = list(range(params["length"]))
    if not steps:
        raise builder.refusal(equation, "of no steps")
    found: dict[int, list[str]] = {}
    for step in reversed(steps) if params["reverse"] else steps:
        builder.names |= zip(body.ins[carry.start : carry.stop], state, strict=True)
        for outer, inner in operands[carry.stop :]:
            builder.alias(inner, outer, step)
        for each in body.equations:
            _evaluate_known(builder, each)
        builder.visit(body.equations)
        outs = [builder.name(value) for value in body.outs]
        state = outs[: len(carry)]
        found[step] = [
            builder.node("Unsqueeze", name, builder.integers([0])) for name in outs[len(carry) :]
        ]
        builder.forget([*body.ins[carry.start :], *made])
    builder.forget(body.ins)
    stacked = [
        builder.node("Concat", *names, axis=0)
        for names in zip(*(found[step] for step in steps), strict=True)
    ]
    return [*state, *stacked]


def _evaluate_known(builder: OnnxBuilder, equation: Equation) -> None:
    """Compute what does not depend on the inputs, such as indices."""
    if all(value in builder.known for value in equation.ins) and not any(
        map(builder.graph.varying, equation.outs)
    ):
        arrays = [np.asarray(builder.known[value]) for value in equation.ins]
        builder.known |= zip(equation.outs, equation.compute(arrays), strict=True)


RULES = {
    "scan": Rule(
        groups=_groups,
        constants=_constants,
        read=_read,
        evaluate=_evaluate,
        onnx=_onnx,
        lengths="length",
    )
}
