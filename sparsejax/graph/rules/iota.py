"""The rule of ``iota``: the index of each entry along one dimension."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sparsejax.graph._rule import Equation, GroupBuilder, Rule, SlicedGraph
from sparsejax.graph._sliced_graph import take


def _groups(builder: GroupBuilder, equation: Equation) -> None:
    """Restrict nothing: entries are computed for the units that are kept."""


def _evaluate(sliced: SlicedGraph, equation: Equation, operands: Sequence[Any]) -> list[Any]:
    (result,), (out,) = equation.apply(operands), equation.outs
    for axis in range(result.ndim):
        kept = sliced.kept(out, axis)
        result = result if kept is None else take(result, kept, axis)
    return [result]


RULES = {"iota": Rule(groups=_groups, evaluate=_evaluate, lengths="shape")}
