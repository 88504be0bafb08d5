"""One graph for all batch sizes: a function traced for two of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from sparsejax._units.graph import Graph, trace
from sparsejax._units.primitives import UNDERSTOOD
from sparsejax._where import PyTree

_SIZES = (2, 3)


class BatchGraph(NamedTuple):
    """A graph of which it is known how its lengths grow with the batch."""

    graph: Graph
    """As traced for a batch of two."""
    multiples: list[tuple[int, ...]]
    """Of each value's dimensions: how often the batch they are long; 0 where they are fixed."""


def trace_batch(
    function: Callable[..., PyTree], params: PyTree, inputs: Sequence[PyTree]
) -> BatchGraph:
    """The graph of ``function(params, *inputs)`` when the inputs' first dimension is a batch.

    It is traced for two sizes, not for a symbolic one: under that JAX makes other operations of
    the same code (a strided slice becomes a gather), and code that asks for ``len(x)`` fails.

    Args:
      function: pure.
      params: pytree of arrays or ``jax.ShapeDtypeStruct``.
      inputs: likewise, examples; their first dimensions do not count.

    Raises:
      ValueError: an input has no first dimension; the traces differ in more than lengths that are
        multiples of the batch.
    """
    first, second = (
        trace(function, params, jax.tree.map(lambda x, size=size: _example(x, size), inputs))
        for size in _SIZES
    )
    if _structure(first) != _structure(second):
        raise ValueError(_refusal("computes differently for another one"))
    numbers = [
        *zip(first.literals.values(), second.literals.values(), strict=True),
        *zip(first.arrays, second.arrays, strict=True),
    ]
    if not all(one is other or _same(one, other) for one, other in numbers):
        raise ValueError(_refusal("computes with its number"))
    multiples = [
        tuple(map(_multiple, before, after))
        for before, after in zip(first.shapes, second.shapes, strict=True)
    ]
    for one, other in zip(first.equations, second.equations, strict=True):
        shapes = [
            list(zip(first.shapes[value], second.shapes[value], strict=True))
            for value in (*one.ins, *one.outs)
        ]
        for name, value in one.params.items():
            if one.name in UNDERSTOOD and not _agree(value, other.params[name], shapes):
                raise ValueError(_refusal(f"has {one.name} with another {name} for each"))
    return BatchGraph(first, multiples)


def _example(example: Any, size: int) -> jax.ShapeDtypeStruct:
    if not example.shape:
        raise ValueError("inputs must have a first dimension, the batch; one is a scalar")
    return jax.ShapeDtypeStruct((size, *example.shape[1:]), example.dtype)


def _refusal(what: str) -> str:
    return f"function must compute the same for every batch size; it {what}"


def _structure(graph: Graph) -> tuple[Any, ...]:
    """What reads what."""
    equations = [(equation.name, equation.ins, equation.outs) for equation in graph.equations]
    return equations, graph.literals.keys(), len(graph.arrays), graph.outputs, graph.tree


def _same(one: Any, other: Any) -> bool:
    """To the bit: NaN is the same as itself."""
    one, other = np.asarray(one), np.asarray(other)
    return (one.dtype, one.shape) == (other.dtype, other.shape) and one.tobytes() == other.tobytes()


def _multiple(before: int, after: int) -> int:
    if before == after:
        return 0
    multiple = after - before
    if (before, after) != tuple(multiple * size for size in _SIZES):
        raise ValueError(
            _refusal(
                f"has a dimension of length {before} for {_SIZES[0]} and {after} for {_SIZES[1]}, "
                "which is no multiple"
            )
        )
    return multiple


def _agree(one: Any, other: Any, shapes: Sequence[list[tuple[int, int]]]) -> bool:
    """Whether a parameter is the same in both traces but for lengths of an operand or a result."""
    if one is other or one == other:
        return True
    return isinstance(one, tuple) and any(
        len(one) == len(other) == len(lengths)
        and all(a == b or (a, b) == both for a, b, both in zip(one, other, lengths, strict=True))
        for lengths in shapes
    )
