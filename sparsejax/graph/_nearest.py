"""The parameter that is nearest to an equation, to say where in a network it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sparsejax.graph._graph import Graph


def nearest_leaf(graph: Graph, number: int, names: Sequence[str]) -> str:
    """Where an equation is, as ``after block3/kernel``; empty where no parameter is connected.

    What it reads is followed back to the first parameter; if there is none, what reads it is
    followed on to the first equation with a parameter.

    Args:
      graph: the graph.
      number: the equation's place.
      names: of the parameters' leaves.
    """
    leaves = dict(zip(graph.leaves, names, strict=True))
    maker = {out: n for n, equation in enumerate(graph.equations) for out in equation.outs}
    readers: dict[int, list[int]] = {}
    for place, equation in enumerate(graph.equations):
        for value in equation.ins:
            readers.setdefault(value, []).append(place)
    before = {
        place: [maker[value] for value in equation.ins if value in maker]
        for place, equation in enumerate(graph.equations)
    }
    after = {
        place: [reader for out in equation.outs for reader in readers.get(out, ())]
        for place, equation in enumerate(graph.equations)
    }
    for word, onward in (("after", before), ("before", after)):
        found = _first(graph, number, leaves, onward)
        if found:
            return f"{word} {found}"
    return ""


def _first(
    graph: Graph, start: int, leaves: Mapping[int, str], onward: Mapping[int, list[int]]
) -> str:
    """The first parameter that is met when equations are visited level by level."""
    level, seen = [start], {start}
    while level:
        for place in level:
            for value in graph.equations[place].ins:
                if value in leaves:
                    return leaves[value] or "the parameters"
        level = [n for place in level for n in dict.fromkeys(onward[place]) if n not in seen]
        level = list(dict.fromkeys(level))
        seen |= set(level)
    return ""
