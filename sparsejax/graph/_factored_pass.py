"""Evaluation of a graph in which some parameters are the product of two factors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax

from sparsejax.graph._factored import Factored, NotFactoredError
from sparsejax.graph._graph import Equation, Graph, evaluate_equations
from sparsejax.graph._trace import trace
from sparsejax.graph.rules import RULES


def find_factored(graph: Graph, factored: Mapping[int, Factored]) -> set[int]:
    """Return the parameters whose factors take fewer multiply-accumulates than their product.

    Args:
      graph: the graph, for the batch size of an example.
      factored: parameters by value, with ``jax.ShapeDtypeStruct`` as factors.

    Returns:
      Those for which every operation that reads them applies to the factors, and for which the
      products with the factors take fewer multiply-accumulates. The product of the factors itself
      is not counted, since it could be computed once.
    """
    values, source = dict(factored), {value: value for value in factored}
    saved = dict.fromkeys(factored, 0)
    refused = {source[value] for value in graph.outputs if value in source}
    for equation in graph.equations:
        read = [value for value in equation.ins if value in values]
        if not read:
            continue
        leaf = source[read[0]]
        operands = [
            values.get(value, jax.ShapeDtypeStruct(graph.shapes[value], graph.dtypes[value]))
            for value in equation.ins
        ]
        try:
            result = jax.eval_shape(lambda *args, e=equation: _result(e, args), *operands)
        except NotFactoredError:
            refused |= {source[value] for value in read}
            continue
        if isinstance(result, Factored):
            values[equation.outs[0]], source[equation.outs[0]] = result, leaf
            continue
        once = trace(lambda _, *args, e=equation: _result(e, args), (), operands)
        saved[leaf] += _macs(graph, equation) - sum(_macs(once, other) for other in once.equations)
    refused |= {source[value] for value in graph.outputs if value in source}
    return {leaf for leaf, macs in saved.items() if macs > 0} - refused


def evaluate_factored(graph: Graph, values: Mapping[int, Any]) -> list[jax.Array]:
    """Compute the outputs of a graph.

    Args:
      graph: the graph, with the shapes of this call.
      values: its leaves, constants, literals and inputs; some are `Factored`.

    Returns:
      The leaves of the outputs.
    """
    return list(map(_whole, evaluate_equations(graph.equations, values, graph.outputs, _apply)))


def _apply(equation: Equation, operands: Sequence[Any]) -> list[Any]:
    if any(isinstance(operand, Factored) for operand in operands):
        try:
            return [_result(equation, operands)]
        except NotFactoredError:
            operands = list(map(_whole, operands))
    return equation.apply(operands)


def _result(equation: Equation, operands: Sequence[Any]) -> Any:
    rule = RULES.get(equation.name)
    if rule is None or rule.factored is None:
        raise NotFactoredError
    return rule.factored(equation, operands)


def _macs(graph: Graph, equation: Equation) -> int:
    rule = RULES.get(equation.name)
    count = None if rule is None else rule.multiply_accumulates
    return 0 if count is None else count(graph, equation)


def _whole(operand: Any) -> Any:
    return operand.whole() if isinstance(operand, Factored) else operand
