"""The rule of ``dynamic_slice`` with starts that are fixed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sparsejax.graph._indexing import indexing
from sparsejax.graph._rule import Equation, FixedSlice, Graph


def _indices(graph: Graph, equation: Equation, known: Mapping[int, Any]) -> FixedSlice | None:
    operand, *starts = equation.ins
    before, after = graph.lengths(operand), graph.lengths(equation.outs[0])
    found = []
    for axis, size in enumerate(equation.params["slice_sizes"]):
        if before[axis] == after[axis]:
            found.append(0)  # JAX clamps the start so that the slice lies within bounds
            continue
        if starts[axis] not in known or graph.varies(operand, axis):
            return None
        last = graph.shapes[operand][axis] - size
        found.append(min(max(int(known[starts[axis]].item()), 0), last))
    return FixedSlice(tuple(found), ())


RULES = {"dynamic_slice": indexing(_indices, "from starts that are not fixed")}
