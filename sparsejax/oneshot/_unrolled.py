"""A function whose scans over layers are written out, step by step."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

import jax
import numpy as np
from jax import lax
from jaxtyping import PyTree

from sparsejax.graph import Graph, Scan, trace
from sparsejax.oneshot._levels import Level

_SMALL = 16  # entries of arrays that are computed while the function is traced, as loop counters


def unroll(level: Level, touched: Collection[int], params: PyTree, batch: PyTree) -> Graph:
    """Return the graph of a function without its scans over layers.

    Args:
      level: the level of the function.
      touched: the numbers of the levels whose scans are written out.
      params: the parameters, or their shapes and dtypes.
      batch: the batch, or its shapes and dtypes.
    """
    graph = level.graph

    def run(params: PyTree, batch: PyTree) -> list[Any]:
        values = graph.given(jax.tree.leaves(params))
        values |= zip(graph.inputs, jax.tree.leaves(batch), strict=True)
        return _run(level, touched, values)

    return trace(run, params, [batch])


def _run(level: Level, touched: Collection[int], values: dict[int, Any]) -> list[Any]:
    graph = level.graph
    for equation in graph.equations:
        operands = [values[value] for value in equation.ins]
        if equation.number in level.scans and level.scans[equation.number][1].number in touched:
            results = _steps(*level.scans[equation.number], touched, operands)
        elif all(isinstance(one, np.ndarray) for one in operands) and all(
            math.prod(graph.shapes[value]) <= _SMALL for value in (*equation.ins, *equation.outs)
        ):
            results = equation.compute(operands)
        else:
            results = equation.apply(operands)
        values |= zip(equation.outs, results, strict=True)
    return [values[value] for value in graph.outputs]


def _steps(
    scan: Scan, inside: Level, touched: Collection[int], operands: Sequence[Any]
) -> list[Any]:
    first, last = scan.num_consts, scan.num_consts + scan.num_carry
    consts, carry, slices = operands[:first], list(operands[first:last]), operands[last:]
    graph = inside.graph
    found: list[list[Any]] = []
    order = range(scan.length)
    for step in reversed(order) if scan.reverse else order:
        arguments = (*consts, *carry, *(_entry(array, step) for array in slices))
        values = graph.given(()) | dict(zip(graph.inputs, arguments, strict=True))
        results = _run(inside, touched, values)
        carry = results[: scan.num_carry]
        found.append(results[scan.num_carry :])
    if scan.reverse:
        found.reverse()
    return [*carry, *(_stack(arrays) for arrays in zip(*found, strict=True))]


def _entry(array: Any, step: int) -> Any:
    if isinstance(array, np.ndarray):
        return np.asarray(array[step])
    return lax.squeeze(lax.slice_in_dim(array, step, step + 1), (0,))


def _stack(arrays: Sequence[Any]) -> Any:
    return lax.concatenate([lax.expand_dims(array, (0,)) for array in arrays], 0)
