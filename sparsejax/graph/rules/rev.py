"""The rule of ``rev``: dimensions are reversed."""

from __future__ import annotations

from sparsejax.graph._indexing import static_indexing
from sparsejax.graph._indices import FixedIndices, Read
from sparsejax.graph._rule import Equation, Graph


def _indices(graph: Graph, equation: Equation) -> list[FixedIndices]:
    reverse, axes = slice(None, None, -1), range(len(graph.shapes[equation.ins[0]]))
    reads = [Read(axis, reverse if axis in equation.params["dimensions"] else None)
             for axis in axes]  # fmt: skip
    return [FixedIndices(tuple(reads), {})]


RULES = {"rev": static_indexing(_indices)}
