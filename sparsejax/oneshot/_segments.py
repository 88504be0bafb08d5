"""Pieces of a computation as programs; pieces that compute alike share one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax
from jax.extend import core
from jax.sharding import NamedSharding

from sparsejax.graph import Equation, Graph, evaluate_equations
from sparsejax.oneshot._gram import Sums, added, gram
from sparsejax.oneshot._plan import Term
from sparsejax.oneshot._uses import Site

Values = dict[int, Any]
"""Arrays by their values in a graph."""


class Segment(NamedTuple):
    """Equations that compute some values from others."""

    equations: tuple[Equation, ...]
    inputs: tuple[int, ...]
    literals: dict[int, np.ndarray]
    outputs: tuple[int, ...]


def segment(graph: Graph, wanted: Collection[int], available: Collection[int]) -> Segment:
    """Return the equations that compute ``wanted`` from ``available`` values."""
    read, found = dict.fromkeys(wanted), []
    for equation in reversed(graph.equations):
        if any(value in read and value not in available for value in equation.outs):
            read |= dict.fromkeys(equation.ins)
            found.append(equation)
    found.reverse()
    computed = {value for equation in found for value in equation.outs} - set(available)
    literals = {value: graph.literals[value] for value in read if value in graph.literals}
    inputs = sorted(value for value in read if value not in computed and value not in literals)
    return Segment(tuple(found), tuple(inputs), literals, tuple(wanted))


class Programs:
    """Compiled segments, each compiled once for all that compute alike.

    Args:
      sharding: where sums are if there are several devices.
    """

    def __init__(self, sharding: NamedSharding | None):
        self._sharding = sharding
        self._cache: dict[Any, Any] = {}

    def placed(self, state: list[Sums]) -> list[Sums]:
        """Return sums where they are kept."""
        if self._sharding is None:
            return state
        found: list[Sums] = jax.device_put(state, self._sharding)
        return found

    def compute(self, graph: Graph, one: Segment, values: Mapping[int, Any]) -> Values:
        """Return the outputs of a segment."""
        renamed = _renamed(one)
        key = "compute", _key(graph, one, renamed)
        if key not in self._cache:
            self._cache[key] = jax.jit(lambda arrays: _run(renamed, arrays))
        results = self._cache[key]([values[value] for value in one.inputs])
        return dict(zip(one.outputs, results, strict=True))

    def add(
        self,
        graph: Graph,
        one: Segment,
        totals: Sequence[Sequence[Term]],
        state: list[Sums],
        values: Mapping[int, Any],
    ) -> list[Sums]:
        """Return sums with the Gram matrices of the sites added that a segment puts out.

        Args:
          graph: the graph.
          one: the segment, whose outputs are the values of all sites.
          totals: the terms of each sum.
          state: the sums so far.
          values: the values that the segment reads.
        """
        places = {value: place for place, value in enumerate(one.outputs)}
        sites = [
            tuple(term.site._replace(value=places[term.site.value]) for term in terms)
            for terms in totals
        ]
        renamed = _renamed(one)
        key = "add", tuple(sites), _key(graph, one, renamed)
        if key not in self._cache:

            def run(state: list[Sums], arrays: Sequence[Any]) -> list[Sums]:
                return self.placed(_added(state, sites, _run(renamed, arrays)))

            self._cache[key] = jax.jit(run, donate_argnums=0)
        result: list[Sums] = self._cache[key](state, [values[value] for value in one.inputs])
        return result


def _run(one: Segment, arrays: Sequence[Any]) -> list[Any]:
    given = one.literals | dict(zip(one.inputs, arrays, strict=True))
    return evaluate_equations(one.equations, given, one.outputs)


def _added(state: list[Sums], sites: Sequence[Sequence[Site]], values: Sequence[Any]) -> list[Sums]:
    found: dict[Any, Sums] = {}
    results = []
    for sums, own in zip(state, sites, strict=True):
        for site in own:
            key = site, sums.rows.dtype
            if key not in found:
                found[key] = gram(values[site.value], site, sums.rows.dtype)
            sums = added(sums, found[key], ())
        results.append(sums)
    return results


def _renamed(one: Segment) -> Segment:
    """Return a segment whose values are numbered in the order in which they appear."""
    new: dict[int, int] = {}

    def name(values: Iterable[int]) -> tuple[int, ...]:
        return tuple(new.setdefault(value, len(new)) for value in values)

    inputs = name(one.inputs)
    equations = tuple(
        Equation(
            number, equation.primitive, name(equation.ins), name(equation.outs), equation.params
        )
        for number, equation in enumerate(one.equations)
    )
    literals = {name([value])[0]: array for value, array in one.literals.items()}
    return Segment(equations, inputs, literals, name(one.outputs))


def _key(graph: Graph, one: Segment, renamed: Segment) -> Any:
    """Return what segments that compute alike have in common."""
    return (
        tuple((graph.shapes[value], str(graph.dtypes[value])) for value in one.inputs),
        tuple((e.name, e.ins, e.outs, _static(e.params)) for e in renamed.equations),
        tuple((value, _static(array)) for value, array in sorted(renamed.literals.items())),
        renamed.outputs,
    )


def _static(value: Any) -> Any:
    """Return what is equal for parameters of equations that are; unique where that is unknown."""
    if isinstance(value, dict):
        return tuple((name, _static(value[name])) for name in sorted(value))
    if isinstance(value, (tuple, list)) and type(value) in (tuple, list):
        return tuple(map(_static, value))
    if isinstance(value, np.ndarray):
        return value.shape, value.dtype.str, value.tobytes()
    if isinstance(value, core.ClosedJaxpr):
        return object() if value.consts else str(value.jaxpr)
    if isinstance(value, core.Jaxpr):
        return str(value)
    try:
        hash(value)
    except TypeError:
        return object()
    return value


def fixed(graph: Graph, wanted: Collection[int], leaves: Sequence[Any]) -> Values:
    """Return values that do not depend on the batch, operation by operation.

    Indices of slices are arguments of the programs, so that a layer is taken from stacked layers by
    one program for all.
    """

    def apply(equation: Equation, operands: Sequence[Any]) -> list[Any]:
        params = equation.params
        if equation.name != "slice" or params["strides"] is not None:
            return equation.apply(operands)
        starts = [np.int32(start) for start in params["start_indices"]]
        return [lax.dynamic_slice(operands[0], starts, graph.shapes[equation.outs[0]])]

    given = graph.given(leaves)
    equations = segment(graph, wanted, given.keys()).equations
    return dict(zip(wanted, evaluate_equations(equations, given, wanted, apply), strict=True))
