"""The rule of ``slice``: static starts, limits and strides."""

from __future__ import annotations

from sparsejax.graph._indexing import static_indexing
from sparsejax.graph._indices import FixedIndices, Read
from sparsejax.graph._rule import Equation, Graph


def _indices(graph: Graph, equation: Equation) -> list[FixedIndices]:
    params, (value,), (out,) = equation.params, equation.ins, equation.outs
    strides = params["strides"] or (1,) * len(params["start_indices"])
    bounds = zip(params["start_indices"], params["limit_indices"], strides, strict=True)
    lengths = zip(graph.lengths(value), graph.lengths(out), strict=True)
    reads = [
        Read(axis, None if before == after else slice(*bound))
        for axis, (bound, (before, after)) in enumerate(zip(bounds, lengths, strict=True))
    ]
    return [FixedIndices(tuple(reads), {})]


RULES = {"slice": static_indexing(_indices, by_axis=("start_indices", "limit_indices"))}
