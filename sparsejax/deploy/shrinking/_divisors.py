"""Removed units of parameters that the function divides by, such as those of a weight norm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sparsejax.deploy.shrinking._plan import Plan
from sparsejax.graph import Equation, Graph, evaluate_equations, fixed_values

_DIVISIONS = ("div", "integer_pow", "log", "pow", "rem", "rsqrt")


def without_division_by_zero(
    graph: Graph, plan: Plan, arrays: Sequence[np.ndarray], names: Sequence[str]
) -> list[np.ndarray]:
    """Return parameters of the original shapes, with which what is computed from them is finite.

    Removed units are zero, unless that divides zero by zero: then those of a parameter that is
    divided by are one, provided that other zeros, such as those of the scale of a weight norm, make
    the units of the kernel zero.

    Args:
      graph: the graph of the original function.
      plan: what was kept of it.
      arrays: its parameters, in which removed units are zero.
      names: their names.

    Raises:
      ValueError: no parameter can be one at its removed units.
    """
    fixed = fixed_values(graph)
    known = [equation for equation in graph.equations if fixed[equation.outs[0]]]
    divisions = [equation for equation in known if equation.name in _DIVISIONS]
    kernels = _read_by_others(graph, fixed, known, divisions)
    if not kernels or _is_sound(graph, plan, known, kernels, arrays):
        return list(arrays)
    before = _before(known, [value for equation in divisions for value in equation.ins])
    places = [place for place, value in enumerate(graph.leaves) if value in before]
    for chosen in [*([place] for place in places), places]:
        filled = [
            _with_ones(graph, plan, place, array) if place in chosen else array
            for place, array in enumerate(arrays)
        ]
        if _is_sound(graph, plan, known, kernels, filled):
            return filled
    found = ", ".join(names[place] for place in places)
    raise ValueError(
        f"network divides by what it computes from {found}, where zeros at the units that were "
        "removed give no finite number, and ones would not leave the kernel zero there"
    )


def _read_by_others(
    graph: Graph, fixed: Sequence[bool], known: Sequence[Equation], divisions: Sequence[Equation]
) -> set[int]:
    """Return values behind divisions that are computed from parameters, and are read by others."""
    behind = {out for equation in divisions for out in equation.outs}
    for equation in known:
        if not behind.isdisjoint(equation.ins):
            behind |= set(equation.outs)
    read = {v for e in graph.equations if not fixed[e.outs[0]] for v in e.ins}
    return behind & (read | set(graph.outputs))


def _before(known: Sequence[Equation], values: Sequence[int]) -> set[int]:
    """Return what values are computed from."""
    found = set(values)
    for equation in reversed(known):
        if not found.isdisjoint(equation.outs):
            found |= set(equation.ins)
    return found


def _is_sound(
    graph: Graph,
    plan: Plan,
    known: Sequence[Equation],
    kernels: set[int],
    arrays: Sequence[np.ndarray],
) -> bool:
    """Return whether kernels are finite, and zero at the units that were removed."""
    needed = _before(known, list(kernels))
    equations = [equation for equation in known if not needed.isdisjoint(equation.outs)]
    found = evaluate_equations(equations, graph.given(arrays), kernels, _compute)
    return all(
        np.isfinite(array).all() and not array[_removed(plan, graph, value)].any()
        for value, array in zip(kernels, map(np.asarray, found), strict=True)
    )


def _compute(equation: Equation, operands: Sequence[Any]) -> list[np.ndarray]:
    return equation.compute(list(map(np.asarray, operands)))


def _with_ones(graph: Graph, plan: Plan, place: int, array: np.ndarray) -> Any:
    removed = _removed(plan, graph, graph.leaves[place])
    return np.where(removed, np.ones((), array.dtype), array)


def _removed(plan: Plan, graph: Graph, value: int) -> np.ndarray:
    """Return a mask of the entries of a value that were removed."""
    shape = graph.shapes[value]
    stays = [
        np.arange(length) if plan.kept.get(group) is None else plan.kept[group]
        for length, group in zip(shape, plan.groups.of_values[value], strict=True)
    ]
    removed = np.ones(shape, bool)
    removed[np.ix_(*stays)] = False
    return removed
