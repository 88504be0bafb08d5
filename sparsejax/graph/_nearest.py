"""The parameter that is nearest to an equation, to say where in a network it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sparsejax.graph._graph import Equation, Graph


def nearest_leaf(graph: Graph, number: int, names: Sequence[str]) -> str:
    """Find the parameter that is nearest to an equation.

    Operands are followed back to the first parameter; if there is none, results are followed to
    the first equation with a parameter.

    Args:
      graph: the graph.
      number: the equation's number.
      names: the names of the parameters' leaves.

    Returns:
      A phrase as ``after block3/kernel``; empty if the equation is connected to no parameter.
    """
    leaves = dict(zip(graph.leaves, names, strict=True))
    equations = graph.every_equation()
    maker = {out: equation.number for equation in equations for out in equation.outs}
    for equation in equations:
        if equation.body is not None:  # what a step reads is what the loop is given
            for outer, inner in zip(equation.ins, equation.body.ins, strict=True):
                if outer in leaves:
                    leaves[inner] = leaves[outer]
                if outer in maker:
                    maker[inner] = maker[outer]
    readers: dict[int, list[int]] = {}
    for equation in equations:
        for value in equation.ins:
            readers.setdefault(value, []).append(equation.number)
    before = {
        equation.number: [maker[value] for value in equation.ins if value in maker]
        for equation in equations
    }
    after = {
        equation.number: [reader for out in equation.outs for reader in readers.get(out, ())]
        for equation in equations
    }
    for word, next_equations in (("after", before), ("before", after)):
        found = _first(equations, number, leaves, next_equations)
        if found:
            return f"{word} {found}"
    return ""


def _first(
    equations: Sequence[Equation],
    start: int,
    leaves: Mapping[int, str],
    next_equations: Mapping[int, list[int]],
) -> str:
    """Return the first parameter that a breadth-first search meets."""
    level, seen = [start], {start}
    while level:
        for number in level:
            for value in equations[number].ins:
                if value in leaves:
                    return leaves[value] or "the parameters"
        found = dict.fromkeys(n for number in level for n in next_equations[number])
        level = [n for n in found if n not in seen]
        seen |= set(level)
    return ""
