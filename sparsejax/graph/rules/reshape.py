"""The rule of ``reshape``: dimensions are split into factors, and factors are merged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax import lax

from sparsejax.graph._constants import ConstantUnits
from sparsejax.graph._reshape import Regrouping, regroup, unchanged
from sparsejax.graph._rule import (
    AxisConstants,
    ConstantFinder,
    Equation,
    Graph,
    GroupBuilder,
    MovedLeaf,
    OnnxBuilder,
    Rule,
    SlicedGraph,
)
from sparsejax.graph._signs import of_first
from sparsejax.graph._sliced_graph import take


def _regroupings(graph: Graph, equation: Equation) -> list[Regrouping]:
    """Return how dimensions are split and merged."""
    lengths = graph.lengths(equation.ins[0])
    if equation.name == "squeeze":
        dropped = equation.params["dimensions"]
        left = [axis for axis in range(len(lengths)) if axis not in dropped]
        return unchanged([(axis, out_axis) for out_axis, axis in enumerate(left)], lengths)
    return regroup(lengths, graph.lengths(equation.outs[0]))


def _groups(builder: GroupBuilder, equation: Equation) -> None:
    builder.reshape(equation, _regroupings(builder.graph, equation))


def _constants(finder: ConstantFinder, equation: Equation) -> list[AxisConstants]:
    found: dict[int, ConstantUnits] = {}
    for one in _regroupings(finder.graph, equation):
        lengths = [length for length, _ in one.factors]
        factors: dict[int, ConstantUnits] = {}
        for axis, indices in zip(one.ins, one.in_factors, strict=False):
            units = finder.along(equation.ins[0], axis)
            factors |= zip(indices, _split(units, [lengths[i] for i in indices]), strict=True)
        for axis, indices in zip(one.outs, one.out_factors, strict=False):
            found[axis] = _merged([factors[index] for index in indices])
    return [found]


def _split(units: ConstantUnits, lengths: Sequence[int]) -> list[ConstantUnits]:
    """Split a dimension: a unit of a factor is constant if all of its tuples are, and equal."""
    if len(lengths) == 1:
        return [units]
    whole = [array.reshape(lengths) for array in units]
    found = []
    for factor in range(len(lengths)):
        mask, numbers = (
            np.moveaxis(array, factor, 0).reshape(lengths[factor], -1) for array in whole
        )
        equal = (numbers[:, 0] == numbers.T).all(axis=0)
        found.append(ConstantUnits(mask.all(axis=1) & equal, numbers[:, 0]))
    return found


def _merged(factors: Sequence[ConstantUnits]) -> ConstantUnits:
    """Merge factors: a tuple of units is constant if one of them is."""
    if len(factors) == 1:
        return factors[0]
    lengths = [len(units.mask) for units in factors]
    mask, numbers = np.zeros(lengths, bool), np.zeros(lengths, factors[0].numbers.dtype)
    for factor, units in enumerate(factors):
        along = [1] * len(factors)
        along[factor] = -1
        here, there = (array.reshape(along) for array in units)
        numbers = np.where(here, there, numbers)
        mask = mask | here
    return ConstantUnits(mask.ravel(), numbers.ravel())


def _compute(finder: ConstantFinder, equation: Equation) -> list[np.ndarray]:
    value, shape = equation.ins[0], finder.graph.shapes[equation.outs[0]]
    if finder.known[value].size == 1:
        return [finder.known[value].reshape((1,) * len(shape))]
    return [finder.whole(value).reshape(shape)]


def _evaluate(sliced: SlicedGraph, equation: Equation, operands: Sequence[Any]) -> list[Any]:
    """Merge all tuples of kept units, then take those tuples that are kept."""
    out = equation.outs[0]
    shape, left = list(sliced.shape(out)), []
    for one, factors in sliced.groups.reshapes[equation.number]:
        for axis, indices in zip(one.outs, one.out_factors, strict=True):
            kept = sliced.kept(out, axis)
            if len(indices) > 1 and kept is not None:
                merged = sliced.merged([factors[index] for index in indices])
                shape[axis] = len(merged)
                left.append((axis, np.searchsorted(merged, kept)))
    result = lax.reshape(operands[0], tuple(shape))
    for axis, wanted in left:
        result = take(result, wanted, axis)
    return [result]


def _onnx(builder: OnnxBuilder, equation: Equation) -> list[str]:
    (value,), (out,) = equation.ins, equation.outs
    shape, multiples = builder.graph.shapes[out], builder.multiples[out]
    return [builder.reshaped(builder.name(value), shape, multiples)]


def _moved_axes(graph: Graph, equation: Equation, axes: tuple[int, ...]) -> tuple[int, ...] | None:
    regroupings = _regroupings(graph, equation)
    if any(len(r.ins) != 1 or len(r.outs) != 1 for r in regroupings):
        return None
    moved = {one.ins[0]: one.outs[0] for one in regroupings}
    return tuple(moved[axis] for axis in axes)


def _factored(equation: Equation, operands: Sequence[Any]) -> Any:
    value, params = operands[0], equation.params
    if equation.name == "squeeze":
        left = [n for axis, n in enumerate(value.shape) if axis not in params["dimensions"]]
        return value.reshaped(left)
    return value.reshaped(params["new_sizes"])


def _moved(graph: Graph, equation: Equation, leaf: MovedLeaf) -> list[MovedLeaf | None]:
    return [leaf.reshaped(graph.shapes[equation.outs[0]])]


RULES = {
    "reshape": Rule(
        groups=_groups,
        sign=of_first,
        constants=_constants,
        compute=_compute,
        evaluate=_evaluate,
        onnx=_onnx,
        moved_axes=_moved_axes,
        factored=_factored,
        moved=_moved,
        per_example=True,
        lengths="new_sizes",
    )
}
