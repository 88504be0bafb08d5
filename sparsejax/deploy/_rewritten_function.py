"""The function of a network some of whose parameters are given in another form."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from sparsejax._where import PyTree
from sparsejax.graph import Graph, trace


@dataclasses.dataclass(frozen=True, eq=False)
class RewrittenFunction:
    """A function with some of its parameters in another form; it is traced again in each call."""

    function: Callable[..., PyTree]
    shapes: PyTree
    """Shapes and dtypes of the parameters that it takes."""
    rewritten: tuple[bool, ...]
    """For each leaf of these whether it is given in the other form, a pytree in its place."""
    read: Callable[[PyTree], Any]
    """Makes of such a pytree the value that ``evaluate`` takes for the leaf."""
    evaluate: Callable[[Graph, Mapping[int, Any]], list[Any]]
    """Computes the outputs of the graph from the values of its leaves, constants and inputs."""

    def __call__(self, params: PyTree, *inputs: PyTree) -> PyTree:
        graph = trace(self.function, self.shapes, inputs)
        structure: Any = jax.tree.structure(self.shapes)
        leaves = [
            self.read(leaf) if other else leaf
            for leaf, other in zip(structure.flatten_up_to(params), self.rewritten, strict=True)
        ]
        values = graph.given(leaves, map(jnp.asarray, jax.tree.leaves(inputs)))
        return jax.tree.unflatten(graph.tree, self.evaluate(graph, values))
