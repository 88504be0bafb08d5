"""The rule of ``split``: consecutive slices of one dimension."""

from __future__ import annotations

import itertools

import numpy as np

from sparsejax.graph._indexing import static_indexing
from sparsejax.graph._indices import FixedIndices, Read
from sparsejax.graph._rule import Equation, Graph


def _indices(graph: Graph, equation: Equation) -> list[FixedIndices]:
    whole = [Read(axis) for axis in range(len(graph.shapes[equation.ins[0]]))]
    chosen, ends = equation.params["axis"], np.cumsum([0, *equation.params["sizes"]]).tolist()
    found = []
    for start, end in itertools.pairwise(ends):
        part = Read(chosen, slice(start, end))
        reads = (*whole[:chosen], part, *whole[chosen + 1 :])
        found.append(FixedIndices(reads, {}))
    return found


RULES = {"split": static_indexing(_indices, lengths="sizes")}
