"""Loops over stacked layers as the layers one after another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from sparsejax.graph._graph import Equation, Graph

_EACH = frozenset({"convert_element_type", "copy"})
"""Primitives that compute each layer of a stack by itself."""


class Layers(NamedTuple):
    """A parameter with one array for each step of a loop, in place of their stack."""

    arrays: tuple[Any, ...]
    """Arrays of one shape and dtype, at least one."""


def find_layers(graph: Graph) -> list[int]:
    """Return the leaves that nothing but loops read, one entry of the first dimension a step.

    A loop is a ``scan`` that is not within another one. Leaves may be converted on their way to it.

    Args:
      graph: a trace of the function.

    Returns:
      Values of the graph, in the order of its leaves; loops of no steps have none.
    """
    # From the last equation to the first one: whether all that reads a value takes single entries.
    read: dict[int, bool] = dict.fromkeys(graph.outputs, False)
    for equation in reversed(graph.equations):
        first = equation.carry().stop if equation.body is not None else len(equation.ins)
        passed_on = equation.name in _EACH and read.get(equation.outs[0], False)
        for place, value in enumerate(equation.ins):
            read[value] = read.get(value, True) and (place >= first or passed_on)
    return [leaf for leaf in graph.leaves if read.get(leaf, False) and graph.shapes[leaf][0]]


def evaluate_unrolled(graph: Graph, given: Mapping[int, Any]) -> list[Any]:
    """Compute the outputs of a graph, writing out the loops that read `Layers`.

    Args:
      graph: the graph.
      given: arrays, or `Layers`, of its leaves, constants, literals and inputs.

    Returns:
      The arrays of ``graph.outputs``.
    """
    values = dict(given)
    for equation in graph.equations:
        operands = [values[value] for value in equation.ins]
        if equation.body is not None and any(isinstance(one, Layers) for one in operands):
            results = _written_out(equation, operands, values)
        elif isinstance(operands[0] if operands else None, Layers) and equation.name in _EACH:
            layers = [equation.apply([array])[0] for array in operands[0].arrays]
            results = [Layers(tuple(layers))]
        else:
            results = equation.apply(operands)
        values |= zip(equation.outs, results, strict=True)
    return [values[value] for value in graph.outputs]


def _written_out(
    equation: Equation, operands: Sequence[Any], outside: Mapping[int, Any]
) -> list[Any]:
    body, carry, params = equation.body, equation.carry(), equation.params
    assert body is not None
    consts, state = operands[: carry.start], list(operands[carry.start : carry.stop])
    steps = range(params["length"])
    stacked: dict[int, list[Any]] = {}
    for step in reversed(steps) if params["reverse"] else steps:
        slices = [_entry(operand, step) for operand in operands[carry.stop :]]
        values = dict(outside) | dict(zip(body.ins, [*consts, *state, *slices], strict=True))
        for each in body.equations:
            results = each.apply([values[value] for value in each.ins])
            values |= zip(each.outs, results, strict=True)
        outs = [values[value] for value in body.outs]
        state, stacked[step] = outs[: len(carry)], outs[len(carry) :]
    after = zip(*(stacked[step] for step in steps), strict=True)
    return [*state, *(jnp.stack(entries) for entries in after)]


def _entry(operand: Any, step: int) -> Any:
    if isinstance(operand, Layers):
        return operand.arrays[step]
    return lax.index_in_dim(operand, step, keepdims=False)
