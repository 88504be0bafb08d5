"""Counts of the keys that reach thresholds, for all leaves and over all devices."""

from __future__ import annotations

import functools
import math
from collections.abc import Hashable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from sparsejax.projections._shards import Layout, automatic_shards

_MOST_OPERANDS = 16
_MOST_PARTIAL = 2**12  # limit on the partial counts of a leaf, unless its entries are far more

Counts = Sequence[jax.Array] | jax.Array
"""int32 counts at several thresholds: scalars, or one array of them."""


def count_reaching(keys: jax.Array, thresholds: jax.Array) -> Counts:
    """Count the keys that reach each threshold in one pass over the keys.

    Args:
      keys: integer array.
      thresholds: array [T] of the dtype of ``keys``. It is one array, since XLA:CPU generates code
        once for all leaves of a shape only if the kernels take the same operands.

    Returns:
      T int32 counts: scalars, or an array [T] where partial counts were added up.
    """
    return count_all_reaching([keys], thresholds)


def count_all_reaching(arrays: Sequence[jax.Array], thresholds: jax.Array) -> Counts:
    """Count the keys of several arrays of one shape together, as `count_reaching` does for one."""
    numbers = range(thresholds.shape[0])
    limits = [lax.index_in_dim(thresholds, number, keepdims=False) for number in numbers]
    split, inside = zip(*[split_as_on_devices(keys) for keys in arrays], strict=True)
    reaching = [[(keys >= limit).astype(jnp.int32) for keys in split] for limit in limits]
    return _counts([functools.reduce(jnp.add, hits) for hits in reaching], inside[0])


def count_each_equal(arrays: Sequence[jax.Array], key: jax.Array) -> Counts:
    """Count the keys that equal a key in each of two or more arrays of one shape, in one pass."""
    split, inside = zip(*[split_as_on_devices(keys) for keys in arrays], strict=True)
    return _counts([(keys == key).astype(jnp.int32) for keys in split], inside[0])


def _counts(hits: Sequence[jax.Array], inside: Sequence[int]) -> Counts:
    """Sum several arrays of one shape; ``inside`` are their dimensions that are not shards.

    This is one variadic reduction, because XLA:CPU materialises the operand of a reduction of a
    single operand or of a stack (measured: seven times as expensive). Where the compiler may have
    sharded the arrays, each shard is counted by itself first: the compiler gathers the partial
    results of a variadic reduction one by one, but adds an array of them up in one all-reduce.
    """
    partial = sum_together(hits, inside)
    if not partial[0].ndim:
        return partial
    return jnp.stack(partial).sum(range(1, partial[0].ndim + 1), dtype=jnp.int32)


def sum_together(operands: Sequence[jax.Array], axes: Sequence[int]) -> tuple[jax.Array, ...]:
    """Sum several arrays of one shape over the same axes, in one variadic reduction."""
    zeros = tuple(jnp.zeros((), operand.dtype) for operand in operands)
    return tuple(lax.reduce(tuple(operands), zeros, _add_each, axes))


def _add_each(left: Sequence[jax.Array], right: Sequence[jax.Array]) -> tuple[jax.Array, ...]:
    return tuple(a + b for a, b in zip(left, right, strict=True))


def table(counts: Sequence[Counts], layouts: Sequence[Layout]) -> jax.Array:
    """Stack the counts of n leaves at T thresholds, over all devices that hold their shards.

    All leaves that are sharded over the same mesh axes share one all-reduce of T n numbers.

    Returns:
      An int32 array [T, n].
    """
    groups = sorted({layout.names for layout in layouts}, key=sorted)
    members = [[n for n, layout in enumerate(layouts) if layout.names == names] for names in groups]
    tables = [
        _over(names, _stacked([counts[n] for n in numbers]))
        for names, numbers in zip(groups, members, strict=True)
    ]
    if len(groups) == 1:
        return tables[0]
    columns = {
        n: lax.index_in_dim(found, column, axis=1)
        for found, numbers in zip(tables, members, strict=True)
        for column, n in enumerate(numbers)
    }
    return jnp.concatenate([columns[n] for n in range(len(counts))], axis=1)


def _stacked(counts: Sequence[Counts]) -> jax.Array:
    if all(isinstance(numbers, jax.Array) for numbers in counts):
        return jnp.stack([jnp.asarray(numbers) for numbers in counts], axis=1)
    # By threshold, so that few operations take many operands.
    return jnp.stack([_row(row) for row in zip(*counts, strict=True)])


def _row(numbers: Sequence[jax.Array]) -> jax.Array:
    # In pieces, since an operation that takes hundreds of operands compiles slowly on a CPU.
    pieces = [
        jnp.stack(numbers[n : n + _MOST_OPERANDS]) for n in range(0, len(numbers), _MOST_OPERANDS)
    ]
    return pieces[0] if len(pieces) == 1 else jnp.concatenate(pieces)


def _over(names: frozenset[str], numbers: jax.Array) -> jax.Array:
    summed: jax.Array = lax.psum(numbers, tuple(sorted(names))) if names else numbers
    return summed


def add_up(counts: Sequence[Counts], layouts: Sequence[Layout]) -> list[jax.Array]:
    """Sum the counts of all leaves over the leaves and over the devices that hold their shards.

    All leaves that are sharded over the same mesh axes share one all-reduce of a few numbers.
    """
    groups: dict[frozenset[str], list[jax.Array]] = {}
    for numbers, layout in zip(counts, layouts, strict=True):
        before = groups.get(layout.names)
        groups[layout.names] = (
            list(numbers)
            if before is None
            else [a + b for a, b in zip(before, numbers, strict=True)]
        )
    for names, numbers in groups.items():
        if names:
            groups[names] = list(lax.psum(jnp.stack(numbers), tuple(sorted(names))))
    return [functools.reduce(jnp.add, column) for column in zip(*groups.values(), strict=True)]


def varying_zero(leaves: Sequence[jax.Array], layouts: Sequence[Layout]) -> jax.Array:
    """Return an int32 zero that varies over the same mesh axes as counts do inside shard_map."""
    kinds = {kind_on_mesh(*pair): pair for pair in zip(leaves, layouts, strict=True)}
    zeros = [[lax.full_like(leaf, 0, dtype=jnp.int32, shape=())] for leaf, _ in kinds.values()]
    return add_up(zeros, [layout for _, layout in kinds.values()])[0]


def kind_on_mesh(leaf: jax.Array, layout: Layout) -> Hashable:
    """Return what leaves must share to be counted in one array: the mesh axes they vary over."""
    return layout.names, getattr(jax.typeof(leaf), "vma", frozenset())


def split_as_on_devices(array: jax.Array) -> tuple[jax.Array, tuple[int, ...]]:
    """Split each dimension into as many pieces as the compiler may have sharded it into.

    Returns:
      The reshaped array and its dimensions inside a piece. The array is returned as it is where
      there would be too many pieces.
    """
    shards = automatic_shards(array)
    pieces = [math.gcd(length, shards) for length in array.shape]
    if math.prod(pieces) == 1 or math.prod(pieces) > max(_MOST_PARTIAL, array.size // 64):
        return array, tuple(range(array.ndim))
    lengths = zip(pieces, array.shape, strict=True)
    shape = [part for piece, length in lengths for part in (piece, length // piece)]
    return array.reshape(shape), tuple(range(1, 2 * array.ndim, 2))
