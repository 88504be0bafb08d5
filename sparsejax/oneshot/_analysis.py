"""A function traced for a batch, and the products that read its chosen parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jaxtyping import PyTree

from sparsejax.graph import Graph, MovedLeaf, trace
from sparsejax.oneshot._find_uses import Uses, find_uses
from sparsejax.oneshot._levels import Level


def traced(function: Callable[[PyTree, PyTree], PyTree], params: PyTree, batch: PyTree) -> Graph:
    """Return the graph of ``function(params, batch)``.

    Raises:
      ValueError: JAX cannot trace it.
    """
    try:
        return trace(function, params, [batch])
    except Exception as error:  # whatever the function raises if it cannot be traced
        raise ValueError(
            "function must be a pure function (params, batch) that JAX can trace for the batches; "
            f"tracing it raises {type(error).__name__}: {error}"
        ) from error


def uses_of(level: Level, arrays: Sequence[Any], chosen: Sequence[bool]) -> dict[int, Uses]:
    """Return the uses of the chosen parameters, by their numbers.

    An array that stands at several places of the tree is one parameter, whose uses are found under
    the number of each chosen place.

    Args:
      level: the level of the function.
      arrays: the parameters.
      chosen: for each whether it is chosen.
    """
    graph = level.graph
    first = {id(array): number for number, array in reversed(list(enumerate(arrays)))}
    wanted = {first[id(array)] for array, own in zip(arrays, chosen, strict=True) if own}
    moved = {
        value: MovedLeaf.whole(first[id(array)], graph.shapes[value])
        for value, array in zip(graph.leaves, arrays, strict=True)
        if first[id(array)] in wanted
    }
    uses = find_uses(level, moved)
    pairs = enumerate(zip(arrays, chosen, strict=True))
    return {number: uses[first[id(array)]] for number, (array, own) in pairs if own}
