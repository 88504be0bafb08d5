"""A function as a sequence of stages, between which the values that are still needed are kept."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from sparsejax._dtypes import at_least_float32
from sparsejax.oneshot._analysis import traced, uses_of
from sparsejax.oneshot._gram import Sums, empty
from sparsejax.oneshot._levels import Level, level_of
from sparsejax.oneshot._plan import Plan, Term, make_plan
from sparsejax.oneshot._segments import Programs, Values, fixed, segment
from sparsejax.oneshot._stages import Stage, parts_of, stages_of
from sparsejax.oneshot._unrolled import unroll


class Flow:
    """The stages of a function for one shape of a batch.

    Args:
      function: ``function(params, batch)``.
      params: the parameters.
      batch: a batch.
      chosen: for each parameter whether it is chosen.
      names: the names of the parameters.
      programs: the programs that all flows share.
    """

    plan: Plan
    """The Gram matrices of the function without scans over layers."""
    stages: list[Stage]
    """The stages in their order."""

    def __init__(
        self,
        function: Callable[[PyTree, PyTree], PyTree],
        params: PyTree,
        batch: PyTree,
        chosen: Sequence[bool],
        names: Sequence[str],
        programs: Programs,
    ):
        arrays = jax.tree.leaves(params)
        level = level_of(traced(function, params, batch))
        sites = {use.site.level for uses in uses_of(level, arrays, chosen).values()
                 for use in uses.products}  # fmt: skip
        touched = {one.number for one in level.levels()
                   if sites & {inner.number for inner in one.levels()}}  # fmt: skip
        if touched - {0}:
            level = level_of(unroll(level, touched, params, batch))
        uses = uses_of(level, arrays, chosen)
        self._level, self._programs = level, programs
        self.plan = make_plan(uses, [level.graph.shapes[value] for value in level.graph.leaves])
        self.stages = stages_of(level, parts_of(self.plan, uses, names))
        self._batched = _batched(level)
        self._alive = [self._alive_at(number) for number in range(len(self.stages))]

    @property
    def operations(self) -> list[Any]:
        """The operations, as text that is the same in another process."""
        return [(one.name, one.ins, one.outs) for one in self._level.graph.equations]

    @property
    def constants(self) -> tuple[Any, ...]:
        """The numbers and arrays in the function."""
        return self._level.graph.literals, self._level.graph.arrays

    def start(self, batch: PyTree) -> Values:
        """Return the values of a batch before the first stage."""
        return dict(zip(self._level.graph.inputs, jax.tree.leaves(batch), strict=True))

    def advance(
        self, number: int, batches: Iterable[Values], leaves: Sequence[Any]
    ) -> list[Values]:
        """Return the values before a stage, given those before the stage before it.

        Args:
          number: the number of the stage.
          batches: the values of each batch.
          leaves: the parameters, pruned as far as the stages before this one go.
        """
        graph = self._level.graph
        before = self._alive[number - 1] if number else frozenset(graph.inputs)
        one = segment(graph, sorted(self._alive[number]), before | self._others())
        known = fixed(graph, [v for v in one.inputs if v not in self._batched], leaves)
        return [self._programs.compute(graph, one, known | values) for values in batches]

    def totals(self, number: int) -> list[tuple[Term, ...]]:
        """Return the terms of the sums of a stage, which parts with the same inputs share."""
        return list(dict.fromkeys(part.terms for part in self.stages[number].parts))

    def empty(self, number: int) -> list[Sums]:
        """Return the sums of a stage for no batch."""
        dtypes = self._level.graph.dtypes
        sizes = []
        for terms in self.totals(number):
            site = terms[0].site
            floating = (dtypes[t.site.value] for t in terms)
            dtype = at_least_float32(*(d for d in floating if jnp.issubdtype(d, jnp.floating)))
            batch = [site.shape[axis] for axis in site.batch]
            sizes.append((batch, site.count(site.inputs), dtype))
        return self._programs.placed([empty(*size) for size in sizes])

    def add(
        self, number: int, state: list[Sums], batches: Iterable[Values], leaves: Sequence[Any]
    ) -> list[Sums]:
        """Return the sums of a stage with those of batches added.

        Args:
          number: the number of the stage.
          state: the sums so far.
          batches: the values of each batch before the stage.
          leaves: the parameters.
        """
        graph, totals = self._level.graph, self.totals(number)
        wanted = dict.fromkeys(term.site.value for terms in totals for term in terms)
        one = segment(graph, list(wanted), self._alive[number] | self._others())
        known = fixed(graph, [v for v in one.inputs if v not in self._batched], leaves)
        for values in batches:
            state = self._programs.add(graph, one, totals, state, known | values)
        return state

    def _others(self) -> frozenset[int]:
        """Return the values that do not depend on the batch."""
        return frozenset(range(len(self._level.graph.shapes))) - self._batched

    def _alive_at(self, number: int) -> frozenset[int]:
        """Return the values before a stage from which the sums of all further stages follow."""
        graph, cut = self._level.graph, self.stages[number].cut
        sites = {term.site.value for stage in self.stages[number:]
                 for part in stage.parts for term in part.terms}  # fmt: skip
        needed = segment(graph, sorted(sites), self._others() | frozenset(graph.inputs)).equations
        later = itertools.chain.from_iterable(one.ins for one in needed if one.number >= cut)
        before = {v for one in graph.equations[:cut] for v in one.outs} | set(graph.inputs)
        return frozenset((sites | set(later)) & before & self._batched)


def _batched(level: Level) -> frozenset[int]:
    """Return the values that equations compute of which a result depends on the batch."""
    found = set(level.graph.inputs)
    for equation in level.graph.equations:
        if any(level.depends[value] for value in equation.outs):
            found |= set(equation.outs)
    return frozenset(found)
