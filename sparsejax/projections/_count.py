"""Counts of the keys that reach thresholds, over all leaves and devices."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from sparsejax.projections._shards import Layout, automatic_shards

_MOST_PARTIAL = 2**12  # limit on the partial counts of a leaf, unless its entries are far more


def count_reaching(keys: jax.Array, thresholds: Sequence[int | jax.Array]) -> list[jax.Array]:
    """Count the keys that reach each threshold (int32 scalars) in one pass over the keys.

    This is one variadic reduction, because XLA:CPU materialises the operand of a reduction of a
    single operand or of a stack (measured: seven times as expensive). Where the compiler may have
    sharded the array, each shard is counted by itself first: the compiler gathers the partial
    results of a variadic reduction one by one, but adds an array of them up in one all-reduce.
    """
    keys, inside = split_as_on_devices(keys)
    hits = tuple((keys >= threshold).astype(jnp.int32) for threshold in thresholds)
    partial = sum_together(hits, inside)
    if not partial[0].ndim:
        return list(partial)
    inner = range(1, partial[0].ndim + 1)
    return list(jnp.stack(partial).sum(inner, dtype=jnp.int32))


def sum_together(operands: Sequence[jax.Array], axes: Sequence[int]) -> tuple[jax.Array, ...]:
    """Sum several arrays of one shape over the same axes, in one variadic reduction."""
    zeros = tuple(jnp.zeros((), operand.dtype) for operand in operands)
    add = lambda left, right: tuple(a + b for a, b in zip(left, right, strict=True))  # noqa: E731
    return tuple(lax.reduce(tuple(operands), zeros, add, axes))


def add_up(counts: Sequence[Sequence[jax.Array]], layouts: Sequence[Layout]) -> list[jax.Array]:
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
    zeros = [[lax.full_like(leaf, 0, dtype=jnp.int32, shape=())] for leaf in leaves]
    return add_up(zeros, layouts)[0]


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
