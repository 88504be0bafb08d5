"""The rule of ``dynamic_slice``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sparsejax.graph._indexing import dynamic_indexing
from sparsejax.graph._indices import ComputedIndices, FixedIndices, Read
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


def _computed(graph: Graph, equation: Equation) -> ComputedIndices:
    pairs = zip(graph.lengths(equation.ins[0]), graph.lengths(equation.outs[0]), strict=True)
    whole = {axis: axis for axis, (before, after) in enumerate(pairs) if before == after}
    return ComputedIndices(whole, ())


RULES = {"dynamic_slice": dynamic_indexing(_indices, _computed, "from starts that are not fixed")}
