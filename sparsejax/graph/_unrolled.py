"""Loops over stacked layers as the layers one after another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from sparsejax.graph._graph import Equation, Graph, evaluate_equations

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

    def apply(equation: Equation, operands: Sequence[Any]) -> list[Any]:
        body = equation.body
        if body is not None and any(isinstance(one, Layers) for one in operands):

            def step(inputs: Sequence[Any]) -> list[Any]:
                values = dict(given) | dict(zip(body.ins, inputs, strict=True))
                return evaluate_equations(body.equations, values, body.outs)

            return unroll_scan(equation, operands, step)
        if equation.name in _EACH and isinstance(operands[0], Layers):
            return [Layers(tuple(equation.apply([array])[0] for array in operands[0].arrays))]
        return equation.apply(operands)

    return evaluate_equations(graph.equations, given, graph.outputs, apply)


def unroll_scan(
    equation: Equation, operands: Sequence[Any], step: Callable[[Sequence[Any]], Sequence[Any]]
) -> list[Any]:
    """Compute the results of a scan one step after another.

    Args:
      equation: the scan.
      operands: its operands: arrays, or `Layers` among the slices.
      step: returns the carry and the slices of the results of a step for its inputs.

    Returns:
      The results of the scan: the last carry, and the slices of all steps, stacked.
    """
    carry, params = equation.carry(), equation.params
    consts, state = operands[: carry.start], operands[carry.start : carry.stop]
    steps = range(params["length"])
    stacked: dict[int, Sequence[Any]] = {}
    for number in reversed(steps) if params["reverse"] else steps:
        slices = [_entry(operand, number) for operand in operands[carry.stop :]]
        outs = step([*consts, *state, *slices])
        state, stacked[number] = outs[: len(carry)], outs[len(carry) :]
    after = zip(*(stacked[number] for number in steps), strict=True)
    return [*state, *(jnp.stack(entries) for entries in after)]


def _entry(operand: Any, number: int) -> Any:
    if isinstance(operand, Layers):
        return operand.arrays[number]
    if isinstance(operand, np.ndarray):
        return np.asarray(operand[number])
    return lax.index_in_dim(operand, number, keepdims=False)
