"""One graph for all batch sizes: a function traced for two of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from sparsejax._where import PyTree
from sparsejax.graph import UNDERSTOOD, Graph, batched_inputs, same, structure, trace, with_batch

_SIZES = (2, 3, 12)
"""The first two say how lengths grow with the batch; the third one that they go on like this."""


class BatchGraph(NamedTuple):
    """A graph of which it is known how its lengths grow with the batch."""

    graph: Graph
    """As traced for a batch of two."""
    multiples: list[tuple[int, ...]]
    """Of each value's dimensions: their length as a multiple of the batch size, 0 if fixed."""
    batched: list[bool]
    """Of the inputs: whether their first dimension is the batch."""


def trace_batch(
    function: Callable[..., PyTree],
    params: PyTree,
    inputs: Sequence[PyTree],
    batched: PyTree = None,
) -> BatchGraph:
    """The graph of ``function(params, *inputs)`` when first dimensions of inputs are a batch.

    It is traced for several sizes, not for a symbolic one: under that JAX makes other operations of
    the same code (a strided slice becomes a gather), and code that asks for ``len(x)`` fails.

    Args:
      function: pure.
      params: pytree of arrays or ``jax.ShapeDtypeStruct``.
      inputs: likewise, examples; the lengths of their batches do not count.
      batched: as for `sparsejax.graph._batch.batched_inputs`.

    Raises:
      ValueError: it is not clear which inputs have a batch; the traces differ in more than lengths
        that are multiples of the batch.
    """
    chosen = batched_inputs(function, params, inputs, batched)
    if not any(chosen):
        graph = trace(function, params, inputs)
        return BatchGraph(graph, [(0,) * len(shape) for shape in graph.shapes], chosen)
    first, *others = (trace(function, params, with_batch(inputs, chosen, size)) for size in _SIZES)
    for other in others:
        _check_same(first, other)
    multiples = [
        tuple(map(_multiple, before, after))
        for before, after in zip(first.shapes, others[0].shapes, strict=True)
    ]
    for size, other in zip(_SIZES[1:], others, strict=True):
        for value, lengths in enumerate(other.shapes):
            grown = zip(first.shapes[value], multiples[value], strict=True)
            if lengths != tuple(many * size if many else length for length, many in grown):
                raise ValueError(
                    _refusal(
                        f"has an array of shape {first.shapes[value]} for {_SIZES[0]} and {lengths}"
                        f" for {size}, which grows in no proportion"
                    )
                )
    return BatchGraph(first._replace(other_shapes=others[0].shapes), multiples, chosen)


def _check_same(first: Graph, other: Graph) -> None:
    """Refuse a function that computes something else for another batch size."""
    if structure(first) != structure(other):
        raise ValueError(_refusal("computes differently for another one"))
    numbers = [
        *zip(first.literals.values(), other.literals.values(), strict=True),
        *zip(first.arrays, other.arrays, strict=True),
    ]
    if not all(same(*pair) for pair in numbers):
        raise ValueError(_refusal("computes with its number"))
    for one, another in zip(first.equations, other.equations, strict=True):
        shapes = [
            list(zip(first.shapes[value], other.shapes[value], strict=True))
            for value in (*one.ins, *one.outs)
        ]
        for name, value in one.params.items():
            if one.name in UNDERSTOOD and not _agree(value, another.params[name], shapes):
                raise ValueError(_refusal(f"has {one.name} with another {name} for each"))


def _refusal(what: str) -> str:
    return f"function must compute the same for every batch size; it {what}"


def _multiple(before: int, after: int) -> int:
    if before == after:
        return 0
    multiple = after - before
    if (before, after) != (multiple * _SIZES[0], multiple * _SIZES[1]):
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
