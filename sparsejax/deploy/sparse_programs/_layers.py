"""The products of a network with known weights, and the kinds that each can be computed in."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from sparsejax._names import named_leaves
from sparsejax._where import PyTree
from sparsejax.deploy.sparse_programs import _direct_convolution, _products
from sparsejax.graph import Contraction, Equation, Graph, Weights

DENSE = "dense"
FUSED = "direct_convolution_fused"
CONVOLUTIONS = ("direct_convolution", FUSED)
KINDS = (DENSE, *_products.PRODUCTS, *CONVOLUTIONS)

_MOST_WEIGHTS = 1000  # A direct convolution is compiled to an operation for each weight.


class Layer(NamedTuple):
    """A product with known weights."""

    equation: int
    """Index of its equation in the graph."""
    name: str
    """Path of its weights; numbered if other layers use the same weights."""
    weights: np.ndarray
    """[in, out, *window]; several dimensions of output units are flattened to one."""
    macs: int
    """Multiply-accumulates of the dense product for the examples."""
    kinds: tuple[str, ...]
    """The kinds that support it, `DENSE` first."""


def find_layers(
    graph: Graph,
    shapes: Sequence[tuple[int, ...]],
    params: PyTree,
    contractions: Mapping[int, Contraction],
    weights: Mapping[int, Weights],
) -> list[Layer]:
    """Return the layers of a network in the order of computation.

    Args:
      graph: the traced network.
      shapes: shape of each value of the graph for the examples.
      params: the parameters, whose paths name the layers.
      contractions: the products with known weights, by the index of their equation.
      weights: the weights of each product, likewise.
    """
    found = []
    names = _names(graph, [name for name, _ in named_leaves(params)])
    taken: dict[str, int] = {}
    for number, contraction in contractions.items():
        equation = graph.equations[number]
        array = _matrix(weights[number], contraction)
        name = names[contraction.weights]
        taken[name] = taken.get(name, 0) + 1
        if taken[name] > 1:
            name += f" ({taken[name]})"
        macs = math.prod(shapes[equation.outs[0]]) * array[:, :1].size
        found.append(Layer(number, name, array, macs, (DENSE, *_kinds(graph, equation, array))))
    return found


def _names(graph: Graph, paths: Sequence[str]) -> dict[int, str]:
    """Label each value by the path of its parameter or the index of its constant."""
    names = dict(zip(graph.leaves, paths, strict=True))
    names |= {value: f"constant {index}" for index, value in enumerate(graph.constants)}
    for equation in graph.equations:
        sources = [value for value in equation.ins if value in names]
        if sources:
            largest = max(sources, key=lambda value: math.prod(graph.shapes[value]))
            names |= dict.fromkeys(equation.outs, names[largest])
    return names


def _matrix(weights: Weights, contraction: Contraction) -> np.ndarray:
    array = weights.array
    window = array.shape[1 + len(contraction.written) :]
    return array.reshape(array.shape[0], -1, *window)


def _kinds(graph: Graph, equation: Equation, weights: np.ndarray) -> Sequence[str]:
    if not jnp.issubdtype(graph.dtypes[equation.outs[0]], jnp.floating):
        return ()
    if equation.name == "dot_general":
        return _products.usable(weights)
    if _direct_convolution.supports(equation) and np.count_nonzero(weights) <= _MOST_WEIGHTS:
        return CONVOLUTIONS
    return ()
