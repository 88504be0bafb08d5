"""Graphs of one function for two batch sizes, compared with one another."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from sparsejax.graph._graph import Equation, Graph, Length
from sparsejax.graph.rules import RULES


def structure(graph: Graph) -> tuple[Any, ...]:
    """Return which equation reads what."""
    equations = [
        (equation.name, equation.ins, equation.outs, equation.body and equation.body[:2])
        for equation in graph.every_equation()
    ]
    sources = graph.leaves, graph.constants, graph.inputs, list(graph.literals)
    return equations, sources, graph.outputs, graph.dtypes, graph.tree


def merge(first: Graph, second: Graph) -> Graph | str:
    """Return one graph with the shapes of both, or why they differ."""
    if structure(first) != structure(second):
        return "computes something else for different batch sizes"
    found = first._replace(other_shapes=second.shapes)
    for one, other in zip(first.every_equation(), second.every_equation(), strict=True):
        wrong = differing_param(found, one, other)
        if wrong:
            return f"has {one.name} with another {wrong} for each batch size"
    numbers, again = own_numbers(first), own_numbers(second)
    differ = (value for value, number in numbers.items() if not same_array(number, again[value]))
    return found._replace(batch_dependent=frozenset(differ))


def differing_param(graph: Graph, one: Equation, other: Equation) -> str:
    """Return a parameter that differs in more than lengths of the batch; empty if there is none.

    Args:
      graph: the graph, with shapes for two batch sizes.
      one: an equation for one batch size.
      other: the same equation for another one.
    """
    rule = RULES.get(one.name)
    if rule is None:
        return ""
    for name, value in compared_params(one).items():
        value_there = other.params[name]
        if value is value_there or value == value_there or name == rule.lengths:
            continue
        if name not in rule.by_axis:
            return name
        for axis, (here, there) in enumerate(zip(value, value_there, strict=True)):
            ends = (one.ins[0], one.outs[0])
            if here != there and not any(graph.varies(end, axis) for end in ends):
                return name
    return ""


def compared_params(equation: Equation) -> dict[str, Any]:
    """Return the parameters of an equation without its jaxpr: the equations of a body are compared,
    and that of a scatter follows from its name.
    """
    jaxpr = {"update_jaxpr"} if equation.body is None else {"jaxpr"}
    return {name: value for name, value in equation.params.items() if name not in jaxpr}


def own_numbers(graph: Graph) -> dict[int, Any]:
    """Return the literals and the arrays that the function closes over, by value."""
    return dict(graph.literals) | dict(zip(graph.constants, graph.arrays, strict=True))


def same_array(one: Any, other: Any) -> bool:
    """Return whether two arrays are equal to the bit; NaN equals itself."""
    if one is other:
        return True
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    if jax.dtypes.issubdtype(one.dtype, jax.dtypes.extended):
        one, other = jax.random.key_data(one), jax.random.key_data(other)
    return np.asarray(one).tobytes() == np.asarray(other).tobytes()


class NotProportionalError(Exception):
    """A number is neither equal for both batch sizes nor in proportion to them."""


def scaled_equation(one: Equation, other: Equation, sizes: Length, batch: Any) -> Equation:
    """Return an equation for a batch, given it for two batch sizes.

    Raises:
      NotProportionalError: a parameter is neither equal for both nor in proportion.
    """
    params = {
        name: scale(value, other.params[name], sizes, batch)
        for name, value in compared_params(one).items()
    }
    body = one.body
    if body is not None and other.body is not None:
        pairs = zip(body.equations, other.body.equations, strict=True)
        inner = tuple(scaled_equation(*pair, sizes, batch) for pair in pairs)
        body = body._replace(equations=inner)
    return one._replace(params=one.params | params, body=body)


def scale(one: Any, other: Any, sizes: Length, batch: Any) -> Any:
    """Return a parameter for a batch, given its values for two batch sizes."""
    if one is other or one == other:
        return one
    if isinstance(one, tuple) and isinstance(other, tuple) and len(one) == len(other):
        found = (scale(a, b, sizes, batch) for a, b in zip(one, other, strict=True))
        return type(one)(*found) if hasattr(one, "_fields") else tuple(found)
    if isinstance(one, int) and isinstance(other, int) and one * sizes[1] == other * sizes[0]:
        return one // sizes[0] * batch if one % sizes[0] == 0 else one * batch // sizes[0]
    raise NotProportionalError
