"""A traced function and the bodies of its scans, as graphs inside one another."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from sparsejax.graph import Equation, Graph, Scan, scan_of


@dataclasses.dataclass(frozen=True, eq=False)
class Level:
    """A graph, and the scans in it."""

    number: int
    """The number of the level, unique in the function; the function itself is 0."""
    path: tuple[int, ...]
    """The number of its scan's equation, after those of the scans around that."""
    graph: Graph
    scans: dict[int, tuple[Scan, Level]]
    """By the number of the equation: the scan, and the level of its body."""
    depends: list[bool]
    """For each value whether it depends on the batch."""
    same: list[int]
    """For each value the first one that is computed in the same way."""

    def levels(self) -> Iterator[Level]:
        """Yield this level and all inside it."""
        yield self
        for _, inside in self.scans.values():
            yield from inside.levels()


def level_of(graph: Graph) -> Level:
    """Return a function's graph with its scans; values that depend on its inputs are found."""
    return _level(graph, (), [True] * len(graph.inputs), itertools.count())


def _level(
    graph: Graph, path: tuple[int, ...], inputs: Sequence[bool], numbers: Iterator[int]
) -> Level:
    number = next(numbers)
    depends = [False] * len(graph.shapes)
    for value, depending in zip(graph.inputs, inputs, strict=True):
        depends[value] = depending
    scans = {}
    for equation in graph.equations:
        operands = [depends[value] for value in equation.ins]
        results = [any(operands)] * len(equation.outs)
        if equation.name == "scan":
            scan = scan_of(equation)
            scans[equation.number] = scan, _body(scan, (*path, equation.number), operands, numbers)
            inside = scans[equation.number][1]
            results = [inside.depends[value] for value in scan.body.outputs]
        for value, depending in zip(equation.outs, results, strict=True):
            depends[value] = depending
    return Level(number, path, graph, scans, depends, _same(graph))


def _body(scan: Scan, path: tuple[int, ...], operands: list[bool], numbers: Iterator[int]) -> Level:
    """Return the level of a scan's body; what depends on the batch in one step does in all."""
    operands = list(operands)
    while True:
        found = _level(scan.body, path, operands, numbers)
        after = list(operands)
        for place, value in enumerate(scan.body.outputs[: scan.num_carry], scan.num_consts):
            after[place] |= found.depends[value]
        if after == operands:
            return found
        operands = after


def _same(graph: Graph) -> list[int]:
    """Find values that are computed by the same operation from the same values."""
    same = list(range(len(graph.shapes)))
    seen: dict[Any, tuple[int, ...]] = {}
    for value, array in graph.literals.items():
        key = array.dtype.str, array.shape, array.tobytes()
        (same[value],) = seen.setdefault(key, (value,))
    for equation in graph.equations:
        key = _key(equation, same)
        if key is not None:
            outs = seen.setdefault(key, equation.outs)
            for value, first in zip(equation.outs, outs, strict=True):
                same[value] = first
    return same


def _key(equation: Equation, same: Sequence[int]) -> Any:
    key = (
        equation.name,
        tuple(same[value] for value in equation.ins),
        tuple(sorted(equation.params.items(), key=lambda item: item[0])),
    )
    try:
        hash(key)
    except TypeError:  # a parameter such as a jaxpr that is compared by nothing
        return None
    return key
