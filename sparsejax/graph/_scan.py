"""The body of a ``scan`` as a graph of its own."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
from jax.extend import core

from sparsejax.graph._graph import Equation, Graph
from sparsejax.graph._scan_counts import scan_counts
from sparsejax.graph._trace import trace


class Scan(NamedTuple):
    """A ``scan``: its operands, and the inputs of its body, are constants, carry and slices."""

    body: Graph
    """The graph of one step, which has no parameters: all operands are its inputs."""
    num_consts: int
    """The number of operands that every step reads, also those that a step only passes on: JAX
    takes these out of the carry."""
    num_carry: int
    """The number of operands that are passed from step to step."""
    length: int
    """The number of steps."""
    reverse: bool
    """Whether the last step comes first."""

    def kept(self, place: int) -> bool:
        """Return whether an operand is the same in all steps."""
        return place < self.num_consts

    def sliced(self, place: int) -> bool:
        """Return whether each step reads one entry along the first dimension of an operand."""
        return place >= self.num_consts + self.num_carry


def scan_of(equation: Equation) -> Scan:
    """Return the scan of an equation.

    Args:
      equation: an equation whose primitive is ``scan``.

    Returns:
      Its body, traced as a graph with calls inlined, and what is static.
    """
    params: Any = equation.params
    closed = params["jaxpr"]
    inputs = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in closed.in_avals]
    run = core.jaxpr_as_fun(closed)
    body = trace(lambda _, *arrays: run(*arrays), (), inputs)
    return Scan(body, *scan_counts(params), params["length"], params["reverse"])
