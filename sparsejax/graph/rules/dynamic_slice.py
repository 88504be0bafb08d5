"""The rule of ``dynamic_slice`` with starts that are fixed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sparsejax.graph._indexing import dynamic_indexing
from sparsejax.graph._indices import FixedIndices, Read
from sparsejax.graph._rule import Equation, Graph


def _indices(graph: Graph, equation: Equation, known: Mapping[int, Any]) -> FixedIndices | None:
    operand, *starts = equation.ins
    before, after = graph.lengths(operand), graph.lengths(equation.outs[0])
    reads = []
    for axis, size in enumerate(equation.params["slice_sizes"]):
        if before[axis] == after[axis]:  # the start is clamped to 0
            reads.append(Read(axis))
            continue
        if starts[axis] not in known or graph.varies(operand, axis):
            return None
        last = graph.shapes[operand][axis] - size
        start = min(max(int(known[starts[axis]].item()), 0), last)
        reads.append(Read(axis, slice(start, start + size)))
    return FixedIndices(tuple(reads), {})


RULES = {"dynamic_slice": dynamic_indexing(_indices, "from starts that are not fixed")}
