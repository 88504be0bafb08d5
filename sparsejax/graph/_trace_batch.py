"""A function traced for two batch sizes, so that what is found in its graph holds for all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax

from sparsejax._where import PyTree
from sparsejax.graph._batch import (
    batch_candidates,
    batch_sizes,
    batched_inputs,
    short_error,
    told_batched,
    with_batch,
)
from sparsejax.graph._batch_trace import BatchTrace
from sparsejax.graph._compare import merge, structure
from sparsejax.graph._graph import abstract
from sparsejax.graph._trace import trace


def trace_batch(
    function: Callable[..., PyTree],
    params: PyTree,
    inputs: Sequence[PyTree],
    batched: PyTree = None,
    single: bool = False,
) -> BatchTrace:
    """Trace ``function(params, *inputs)`` for two batch sizes.

    What is found does not depend on how many examples ``inputs`` hold. A function that computes
    something else for the examples than for other batches, or that cannot be traced for others, is
    traced for the examples alone.

    Args:
      function: a pure function ``function(params, *inputs)``.
      params: pytree of arrays or ``jax.ShapeDtypeStruct``.
      inputs: the same; examples.
      batched: which inputs have a batch as their first dimension: a prefix of ``inputs`` of bools.
        By default, as many as ``function`` can be traced with for another batch size.
      single: whether a batch of one may be computed otherwise; its trace is then ``single``.

    Returns:
      The trace; ``other`` is None and ``reason`` says why if it holds for the examples alone.

    Raises:
      ValueError: ``batched`` is not a prefix of ``inputs``.
    """
    leaves = jax.tree.leaves(abstract(list(inputs)))
    example = trace(function, params, inputs)
    if batched is None:
        first = [bool(leaf.shape) for leaf in leaves]
        candidates = batch_candidates(function, params, inputs, first)
    else:
        first = told_batched(inputs, batched)
        candidates = [first]
    known = function, abstract(params), abstract(list(inputs))
    reason = "none of them has a batch"
    for chosen in candidates:
        for sizes in batch_sizes(leaves, chosen):
            try:
                one, other = (
                    trace(function, params, with_batch(inputs, chosen, size)) for size in sizes
                )
            except Exception as error:  # whatever the function raises if it cannot be traced
                reason = f"function cannot be traced for another batch size ({short_error(error)})"
                continue
            found = merge(one, other)
            if isinstance(found, str):
                reason = f"function {found}"
            elif structure(found) != structure(example) and not (
                single and _is_single(leaves, chosen)
            ):
                reason = "function computes something else for another batch size"
            else:
                traced = BatchTrace(*known, tuple(chosen), found, other)
                return _with_single(traced) if single else traced
    return BatchTrace(*known, tuple(first), example, None, reason)


def _is_single(leaves: Sequence[Any], batched: Sequence[bool]) -> bool:
    return all(leaf.shape[0] == 1 for leaf, has in zip(leaves, batched, strict=True) if has)


def _with_single(traced: BatchTrace) -> BatchTrace:
    """Add the trace for a batch of one, if that is computed otherwise and can be traced."""
    inputs = with_batch(traced.inputs, traced.batched, 1)
    try:
        graph = trace(traced.function, traced.params, inputs)
    except Exception:  # whatever the function raises if it cannot be traced
        return traced
    if traced.fits(graph):
        return traced
    reason = "function computes something else for another batch size"
    one = BatchTrace(traced.function, traced.params, inputs, traced.batched, graph, None, reason)
    return replace(traced, single=one)


def trace_every_batch(
    function: Callable[..., PyTree],
    params: PyTree,
    inputs: Sequence[PyTree],
    batched: PyTree = None,
) -> tuple[BatchTrace, list[tuple[int, ...]]]:
    """Trace a function that must compute the same for every batch size.

    Args:
      function: a pure function ``function(params, *inputs)``.
      params: pytree of arrays or ``jax.ShapeDtypeStruct``.
      inputs: the same; examples.
      batched: which inputs have a batch as their first dimension: a prefix of ``inputs`` of bools.
        By default, those with which ``function`` can be traced for another first dimension.

    Returns:
      The trace, and the length of each value's dimensions as a multiple of the batch size; 0 if
      fixed.

    Raises:
      ValueError: it is not clear which inputs have a batch; the function computes something else
        for another batch size.
    """
    chosen = batched_inputs(function, params, inputs, batched)
    told = jax.tree.unflatten(jax.tree.structure(list(inputs)), chosen)
    traced = trace_batch(function, params, inputs, told)
    return traced, traced.multiples()
