"""A function whose scans over layers are written out, step by step."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from sparsejax.graph import Equation, Graph, evaluate_equations, trace, unroll_scan
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

    def run(params: PyTree, batch: PyTree) -> list[Any]:
        return _run(level, touched, jax.tree.leaves(params), jax.tree.leaves(batch))

    return trace(run, params, [batch])


def _run(
    level: Level, touched: Collection[int], leaves: Sequence[Any], inputs: Sequence[Any]
) -> list[Any]:
    graph = level.graph

    def apply(equation: Equation, operands: Sequence[Any]) -> Sequence[Any]:
        if equation.number in level.scans:
            inside = level.scans[equation.number][1]
            if inside.number in touched:
                return unroll_scan(equation, operands, partial(_run, inside, touched, ()))
        if all(isinstance(one, np.ndarray) for one in operands) and all(
            math.prod(graph.shapes[value]) <= _SMALL for value in (*equation.ins, *equation.outs)
        ):
            return equation.compute(operands)
        return equation.apply(operands)

    return evaluate_equations(graph.equations, graph.given(leaves, inputs), graph.outputs, apply)
