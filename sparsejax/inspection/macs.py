"""Multiply-accumulates of a forward pass."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax

from sparsejax._units.graph import Equation, Graph, abstract, trace
from sparsejax._units.primitives import PRODUCTS
from sparsejax._where import PyTree


def macs(function: Callable[..., PyTree], params: PyTree, *inputs: PyTree) -> int:
    r"""Multiply-accumulates of one example's forward pass, counted in the function's jaxpr.

    Counted are matrix products (``dot_general``) and convolutions, all of their weights, zeros too,
    a convolution's at each position of its output: of a pruned network, count what
    ``sparsejax.deploy.shrink`` leaves (``macs(small.function, small.params, images)``). Nothing is
    computed.

    Args:
      function: ``function(params, *inputs)``, pure.
      params: pytree of arrays or ``jax.ShapeDtypeStruct``.
      *inputs: the same; the first dimension is the batch, of which one example counts.

    Raises:
      ValueError: there are products in a loop or a branch.
    """
    graph = trace(function, params, jax.tree.map(_one, abstract(inputs)))
    return sum(_products(graph, equation) for equation in graph.equations)


def _one(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, *leaf.shape[1:]) if leaf.shape else (), leaf.dtype)


def _products(graph: Graph, equation: Equation) -> int:
    if equation.name not in PRODUCTS:
        if _holds_products(equation.params):
            raise ValueError(
                f"function holds products in a {equation.name}; macs counts only those that are "
                "computed once each"
            )
        return 0
    left, right = (graph.shapes[value] for value in equation.ins)
    numbers = equation.params["dimension_numbers"]
    if equation.name == "dot_general":
        each = math.prod(left[axis] for axis in numbers[0][0])
    else:
        each = math.prod(right) // right[numbers.rhs_spec[0]]
    return math.prod(graph.shapes[equation.outs[0]]) * each


def _holds_products(params: dict[str, Any]) -> bool:
    """Whether there are products in what a primitive runs."""
    return any(
        inner.primitive.name in PRODUCTS or _holds_products(inner.params)
        for jaxpr in jax.tree.leaves(params)
        for inner in getattr(jaxpr, "eqns", ())
    )
