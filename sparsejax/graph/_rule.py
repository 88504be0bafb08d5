"""The rules of one primitive of JAX: one record for all analyses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparsejax.graph._constant_finder import ConstantFinder
from sparsejax.graph._constants import AxisConstants
from sparsejax.graph._contraction import Contraction
from sparsejax.graph._factored import Factored, NotFactoredError
from sparsejax.graph._graph import Equation, Graph
from sparsejax.graph._group_builder import GroupBuilder
from sparsejax.graph._indices import FixedIndices
from sparsejax.graph._moved_leaf import MovedLeaf
from sparsejax.graph._onnx_builder import OnnxBuilder
from sparsejax.graph._signs import SignRule
from sparsejax.graph._sliced_graph import SlicedGraph

__all__ = [
    "AxisConstants",
    "ConstantFinder",
    "Contraction",
    "Equation",
    "Factored",
    "Graph",
    "GroupBuilder",
    "MovedLeaf",
    "NotFactoredError",
    "OnnxBuilder",
    "OnnxRule",
    "Rule",
    "SlicedGraph",
    "remaining_axes",
]


OnnxRule = Callable[[OnnxBuilder, Equation], list[str]]
"""Appends ONNX nodes and returns the names of the results."""


def no_constants(finder: ConstantFinder, equation: Equation) -> list[AxisConstants]:
    """Find no constant units in the results."""
    return [{} for _ in equation.outs]


def remaining_axes(graph: Graph, equation: Equation) -> list[int]:
    """Return the dimensions of the operand that a reduction leaves, in order."""
    rank = len(graph.shapes[equation.ins[0]])
    return [axis for axis in range(rank) if axis not in equation.params["axes"]]


def compute_whole(finder: ConstantFinder, equation: Equation) -> list[np.ndarray]:
    """Compute the results from fixed operands in their full shapes."""
    return equation.compute([finder.whole(value) for value in equation.ins])


def apply_to_kept(sliced: SlicedGraph, equation: Equation, operands: Sequence[Any]) -> list[Any]:
    """Apply the primitive, with its own parameters, to what is kept of the operands."""
    return equation.apply(operands)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """The rule of a primitive. Fields with defaults are for primitives that need more."""

    groups: Callable[[GroupBuilder, Equation], None]
    """Put dimensions of operands and results into dependency groups, and connect these by edges."""
    constants: Callable[[ConstantFinder, Equation], list[AxisConstants]] = no_constants
    """Return the constant units of each result, if an operand is not fixed."""
    read: Callable[[ConstantFinder, Equation], None] | None = None
    """Record which units change the results: those of a product, or of a reduction."""
    sign: SignRule | None = None
    """Return what is known of the signs of the results, given those of the operands."""
    compute: Callable[[ConstantFinder, Equation], list[np.ndarray]] = compute_whole
    """Return the results, if all operands are fixed; of length 1 where they do not vary."""
    evaluate: Callable[[SlicedGraph, Equation, Sequence[Any]], list[Any]] = apply_to_kept
    """Return what is kept of the results from what is kept of the operands."""
    onnx: OnnxRule | None = None
    """Append ONNX nodes and return the names of the results; None if there is no ONNX form."""
    contraction: Callable[[Graph, Equation, tuple[bool, bool]], Contraction | None] | None = None
    """Return a product as a contraction, given which of both factors are known; None for others."""
    multiply_accumulates: Callable[[Graph, Equation], int] | None = None
    """Return the number of multiply-accumulates of a product."""
    indices: Callable[[Graph, Equation, Mapping[int, Any]], FixedIndices | None] | None = None
    """Return the indices that are read, given the known values; None if they are not fixed."""
    moved_axes: Callable[[Graph, Equation, tuple[int, ...]], tuple[int, ...] | None] | None = None
    """Return where dimensions longer than 1 are in the result, which is the operand in another
    shape."""
    factored: Callable[[Equation, Sequence[Any]], Any] | None = None
    """Return the result, an array or a `Factored`, where an operand is `Factored`; raise
    `NotFactoredError` if the factors must be multiplied for it."""
    moved: Callable[[Graph, Equation, MovedLeaf], list[MovedLeaf | None]] | None = None
    """Return where the entries of a parameter, the first operand, are in the results; None for a
    result for which they are computed or rearranged otherwise."""
    elementwise: bool = False
    """Whether entry i of the result depends on entries i of the operands alone."""
    per_example: bool = False
    """Whether equal entries along the batch stay equal: fixed operands give a fixed result, though
    its shape depends on the batch size."""
    lengths: str = ""
    """The name of a parameter that holds lengths, which may depend on the batch size."""
    by_axis: tuple[str, ...] = ()
    """Names of parameters with an entry for each dimension, which may depend on the batch size for
    a dimension that does."""
