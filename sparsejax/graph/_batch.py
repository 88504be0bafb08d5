"""Find the inputs of a function whose first dimension is a batch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax._names import named_leaves
from sparsejax._where import PyTree
from sparsejax.graph._graph import abstract

SIZES = (12, 18)
"""The batch sizes to trace for. Their halves, thirds and sixths are integers and differ, so that a
part of a batch is not mistaken for a fixed length either."""

_MOST = 6  # inputs of which all subsets are tried


def told_batched(inputs: Sequence[PyTree], batched: PyTree) -> list[bool]:
    """Return one bool for each leaf of ``inputs``, given a tree of bools that is a prefix of it.

    Raises:
      ValueError: ``batched`` is not a prefix, holds something other than bools, or says that a
        scalar has a batch.
    """
    prefix = list(batched) if isinstance(batched, tuple) else batched
    try:
        whole = jax.tree.leaves(jax.tree.broadcast(prefix, list(inputs)))
    except ValueError as error:
        raise ValueError(
            "batched must be a bool, or a tuple with one for each input (or a tree of bools that "
            f"is a prefix of it); got {batched!r} for inputs {jax.tree.structure(tuple(inputs))}"
        ) from error
    for (name, leaf), value in zip(named_leaves(list(inputs)), whole, strict=True):
        if not isinstance(value, (bool, np.bool_)):
            raise ValueError(f"batched must hold bools; it holds {value!r}")
        if value and not jnp.shape(leaf):
            raise ValueError(f"batched says that input {name} has a batch; it is a scalar")
    return [bool(value) for value in whole]


def batched_inputs(
    function: Callable[..., PyTree],
    params: PyTree,
    inputs: Sequence[PyTree],
    batched: PyTree = None,
) -> list[bool]:
    """Return which leaves of ``inputs`` have a batch as their first dimension.

    Args:
      function: ``function(params, *inputs)``.
      params: pytree of arrays or ``jax.ShapeDtypeStruct``.
      inputs: the same; examples.
      batched: which inputs have a batch: a prefix of ``inputs`` of bools. By default, those with
        which ``function`` can be traced for another first dimension.

    Returns:
      One bool for each leaf of ``inputs``.

    Raises:
      ValueError: ``batched`` is not a prefix of ``inputs``; no input has a dimension; or it is not
        clear which inputs have a batch.
    """
    if batched is not None:
        return told_batched(inputs, batched)
    named = named_leaves(abstract(list(inputs)))
    shaped = [bool(leaf.shape) for _, leaf in named]
    if not any(shaped):
        raise ValueError(
            "inputs must have a first dimension, the batch; all are scalars (batched=False is for "
            "functions without a batch)"
        )
    leaves = [leaf for _, leaf in named]
    for chosen in batch_candidates(function, params, inputs, shaped):
        if _traceable(function, params, inputs, chosen):
            lengths = {leaf.shape[0] for leaf, has in zip(leaves, chosen, strict=True) if has}
            if len(lengths) == 1:
                return chosen
            found = ", ".join(
                f"{name}: {leaf.shape[0]}"
                for (name, leaf), has in zip(named, chosen, strict=True) if has
            )  # fmt: skip
            raise ValueError(
                f"inputs have first dimensions of several lengths ({found}), and function can be "
                "traced with others for each; say which of them are the batch, by batched=(True, "
                "False, ...) with one bool for each input"
            )
    error = _trace_error(function, params, inputs, shaped, SIZES)
    raise ValueError(
        "function must compute the same for every batch size; with another first dimension of "
        f"inputs it fails ({error}). If some of the inputs have no batch, say so by batched=(True, "
        "False, ...), with one bool for each input; batched=False keeps all of their shapes"
    )


def with_batch(inputs: Sequence[PyTree], batched: Iterable[bool], size: Any) -> list[PyTree]:
    """Return shapes and dtypes of the inputs for another batch size.

    Args:
      inputs: pytrees of arrays or ``jax.ShapeDtypeStruct``.
      batched: one bool for each leaf: whether its first dimension is the batch.
      size: the batch size; a list has one for each leaf, which is not used where there is no batch.

    Returns:
      The inputs as pytrees of ``jax.ShapeDtypeStruct``.
    """
    leaves, treedef = jax.tree.flatten(abstract(list(inputs)))
    sizes = size if isinstance(size, list) else [size] * len(leaves)
    shapes = [
        jax.ShapeDtypeStruct((n, *leaf.shape[1:]), leaf.dtype) if has else leaf
        for leaf, has, n in zip(leaves, batched, sizes, strict=True)
    ]
    return list(jax.tree.unflatten(treedef, shapes))


def batch_sizes(leaves: Sequence[Any], batched: Sequence[bool]) -> list[tuple[Any, Any]]:
    """Return pairs of batch sizes to trace for: `SIZES`, and multiples of the examples' sizes."""
    if not any(batched):
        return []
    own = [leaf.shape[0] if has else 0 for leaf, has in zip(leaves, batched, strict=True)]
    pairs: list[tuple[Any, Any]] = [SIZES]
    if all(n > 0 for n, has in zip(own, batched, strict=True) if has):
        pairs.append(([2 * n for n in own], [3 * n for n in own]))
    return pairs


def batch_candidates(
    function: Callable[..., PyTree],
    params: PyTree,
    inputs: Sequence[PyTree],
    first: Sequence[bool],
) -> Iterable[list[bool]]:
    """Yield which inputs may have a batch: ``first``, then the largest traceable subset, if unique.

    Subsets are only tried if ``function`` cannot be traced with ``first``.
    """
    yield list(first)
    able = [index for index, has in enumerate(first) if has]
    if not 1 < len(able) <= _MOST or _traceable(function, params, inputs, first):
        return
    for count in range(len(able) - 1, 0, -1):
        subsets = (
            [index in some for index in range(len(first))]
            for some in itertools.combinations(able, count)
        )
        found = [chosen for chosen in subsets if _traceable(function, params, inputs, chosen)]
        if found:
            if len(found) == 1:
                yield found[0]
            return


def _traceable(
    function: Callable[..., PyTree],
    params: PyTree,
    inputs: Sequence[PyTree],
    batched: Sequence[bool],
) -> bool:
    """Return whether the function can be traced for a pair of batch sizes."""
    leaves = jax.tree.leaves(abstract(list(inputs)))
    pairs = batch_sizes(leaves, batched)
    return any(not _trace_error(function, params, inputs, batched, pair) for pair in pairs)


def _trace_error(
    function: Callable[..., PyTree],
    params: PyTree,
    inputs: Sequence[PyTree],
    batched: Sequence[bool],
    sizes: tuple[Any, Any],
) -> str:
    """Return why the function cannot be traced for a pair of batch sizes; empty if it can."""
    for size in sizes:
        try:
            jax.eval_shape(function, abstract(params), *with_batch(inputs, batched, size))
        except Exception as error:  # whatever the function raises if it cannot be traced
            return short_error(error)
    return ""


def short_error(error: Exception) -> str:
    """Return the type of an error and the first line of its message."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"
