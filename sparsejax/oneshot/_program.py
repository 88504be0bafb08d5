"""The program that adds the Gram matrices of one batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax

from sparsejax.graph import Equation
from sparsejax.oneshot._gram import Sums, added, gram
from sparsejax.oneshot._levels import Level
from sparsejax.oneshot._plan import Plan, Term
from sparsejax.oneshot._uses import Index, Traced

State = dict[int, Sums]
"""The sums of each total, by its index."""


class Program:
    """A function whose values are computed as far as Gram matrices need them.

    Args:
      level: the level of the function.
      plan: the Gram matrices.
    """

    def __init__(self, level: Level, plan: Plan):
        self._top = level
        self._totals_of: dict[Term, list[int]] = {}
        for number, total in enumerate(plan.totals):
            for term in total.terms:
                self._totals_of.setdefault(term, []).append(number)
        self._terms: dict[tuple[int, int], list[Term]] = {}
        for term in self._totals_of:
            self._terms.setdefault((term.site.level, plan.places[term][-1]), []).append(term)
        self._wanted: dict[int, set[int]] = {}
        for term in self._totals_of:
            for traced in _traced(term):
                if traced.value is not None:
                    self._wanted.setdefault(traced.level, set()).add(traced.value)
        self._touched = {one.number: self._totals_in(one) for one in level.levels()}

    def __call__(self, state: State, leaves: Sequence[Any], inputs: Sequence[Any]) -> State:
        """Return the sums with those of a batch added.

        Args:
          state: the sums so far.
          leaves: the leaves of the parameters.
          inputs: the leaves of the batch.
        """
        values = self._top.graph.given(leaves, inputs)
        state = dict(state)
        self._run(self._top, values, state, {}, ())
        return state

    def _totals_in(self, level: Level) -> list[int]:
        """Return the totals to which a level and those inside it add."""
        numbers = {one.number for one in level.levels()}
        found = (total for term, totals in self._totals_of.items()
                 if term.site.level in numbers for total in totals)  # fmt: skip
        return sorted(set(found))

    def _run(
        self,
        level: Level,
        values: dict[int, Any],
        state: State,
        traced: dict[Traced, Any],
        outputs: Iterable[int],
    ) -> None:
        """Compute ``outputs`` into ``values``, and add to ``state``."""
        wanted = self._wanted.get(level.number, set())
        grams: dict[Any, Sums] = {}
        live = self._live(level, {*outputs, *wanted})
        for value in wanted & values.keys():
            traced[Traced(level.number, value)] = values[value]
        for equation in level.graph.equations:
            for term in self._terms.get((level.number, equation.number), ()):
                for total in self._totals_of[term]:
                    dtype = state[total].rows.dtype
                    key = term.site, dtype
                    if key not in grams:
                        grams[key] = gram(values[term.site.value], term.site, dtype)
                    index = [_number(one, traced) for one in term.entry]
                    state[total] = added(state[total], grams[key], index)
            if equation.number not in live:
                continue
            operands = [values[value] for value in equation.ins]
            if equation.number in level.scans and self._touched[self._inside(level, equation)]:
                results = self._scan(level, equation, operands, state, traced)
            else:
                results = equation.apply(operands)
            values |= zip(equation.outs, results, strict=True)
            for value in wanted & set(equation.outs):
                traced[Traced(level.number, value)] = values[value]

    def _inside(self, level: Level, equation: Equation) -> int:
        return level.scans[equation.number][1].number

    def _live(self, level: Level, outputs: set[int]) -> set[int]:
        """Return the equations that outputs and Gram matrices need."""
        read, found = set(outputs), set()
        for equation in reversed(level.graph.equations):
            scan = level.scans.get(equation.number)
            if read & set(equation.outs) or (scan and self._touched[scan[1].number]):
                read |= set(equation.ins)
                found.add(equation.number)
            for term in self._terms.get((level.number, equation.number), ()):
                read.add(term.site.value)
        return found

    def _scan(
        self,
        level: Level,
        equation: Equation,
        operands: Sequence[Any],
        state: State,
        traced: Mapping[Traced, Any],
    ) -> list[Any]:
        """Run a scan that carries the sums along, and add to ``state``."""
        scan, inside = level.scans[equation.number]
        first, last = scan.num_consts, scan.num_consts + scan.num_carry
        consts, init, slices = operands[:first], operands[first:last], operands[last:]
        touched = self._touched[inside.number]

        def step(carry: Any, sliced: Any) -> Any:
            mine, carried = carry
            counter, entries = sliced
            mine = dict(mine)
            graph = inside.graph
            values = graph.given((), (*consts, *carried, *entries))
            known = dict(traced) | {Traced(inside.number, None): counter}
            self._run(inside, values, mine, known, graph.outputs)
            results = [values[value] for value in graph.outputs]
            return (mine, results[: scan.num_carry]), results[scan.num_carry :]

        counters = jnp.arange(scan.length, dtype=jnp.int32)
        before = {number: state[number] for number in touched}
        (after, carried), ys = lax.scan(
            step, (before, list(init)), (counters, list(slices)), scan.length, scan.reverse
        )
        state.update(after)
        return [*carried, *ys]


def _traced(term: Term) -> list[Traced]:
    return [one for index in term.entry if index for _, one in index.traced]


def _number(index: Index | None, traced: Mapping[Traced, Any]) -> Any:
    """Return an index of a batch axis as a number."""
    if index is None:
        return None
    total: Any = index.known
    for stride, one in index.traced:
        total = total + stride * traced[one].astype(jnp.int32)
    return total
