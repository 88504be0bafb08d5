"""The rule of ``fft``: transformed dimensions are kept whole, and zeros along others stay zero."""

from __future__ import annotations

from sparsejax.graph._rule import AxisConstants, ConstantFinder, Equation, GroupBuilder, Rule


def _passed(rank: int, equation: Equation) -> range:
    """Return the dimensions that are not transformed."""
    return range(rank - len(equation.params["fft_lengths"]))


def _groups(builder: GroupBuilder, equation: Equation) -> None:
    value, (out,) = equation.ins[0], equation.outs
    rank = len(builder.graph.shapes[value])
    passed = _passed(rank, equation)
    builder.same_pairs(value, passed, out, passed)
    for side in (value, out):
        builder.keep_whole(side, range(len(passed), rank))


def _constants(finder: ConstantFinder, equation: Equation) -> list[AxisConstants]:
    value, (out,) = equation.ins[0], equation.outs
    dtype = finder.graph.dtypes[out]
    zeros = {
        axis: finder.along(value, axis).zeros()
        for axis in _passed(len(finder.graph.shapes[value]), equation)
    }
    return [{a: units._replace(numbers=units.numbers.astype(dtype)) for a, units in zeros.items()}]


RULES = {"fft": Rule(groups=_groups, constants=_constants)}
