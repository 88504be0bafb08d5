"""Counting: how many keys reach each of some thresholds, over all leaves and devices."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from sparsejax.projections._shards import Layout, automatic_shards

_MOST_PARTIAL = 2**12  # partial counts of a leaf; more only if they are few beside its entries


def count_reaching(keys: jax.Array, thresholds: Sequence[int | jax.Array]) -> list[jax.Array]:
    """How many keys reach each threshold (int32), in one pass over the keys.

    One reduction of several operands: XLA:CPU materialises what a reduction of one operand, or a
    stack of them, counts (seven times dearer than all of it, measured). Where the compiler may have
    cut the array, each piece is counted by itself first: left alone it gathers the partial results
    of such a reduction one by one, while it adds up an array of them in one all-reduce.
    """
    keys, inside = split_as_on_devices(keys)
    hits = tuple((keys >= threshold).astype(jnp.int32) for threshold in thresholds)
    zeros = tuple(jnp.asarray(0, jnp.int32) for _ in thresholds)
    add = lambda left, right: tuple(a + b for a, b in zip(left, right, strict=True))  # noqa: E731
    partial = lax.reduce(hits, zeros, add, inside)
    if not partial[0].ndim:
        return list(partial)
    inner = range(1, partial[0].ndim + 1)
    return list(jnp.stack(partial).sum(inner, dtype=jnp.int32))


def add_up(counts: Sequence[Sequence[jax.Array]], layouts: Sequence[Layout]) -> list[jax.Array]:
    """Sums over all leaves, and over all devices that hold pieces of them, of each leaf's counts.

    One all-reduce of a few numbers for all leaves that are cut by the same mesh axes.
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
    """An int32 zero of the type of counts: inside shard_map types say where values differ."""
    zeros = [[lax.full_like(leaf, 0, dtype=jnp.int32, shape=())] for leaf in leaves]
    return add_up(zeros, layouts)[0]


def split_as_on_devices(array: jax.Array) -> tuple[jax.Array, tuple[int, ...]]:
    """Each dimension in as many pieces as it can have on the devices, where those are few.

    Returns:
      The reshaped array and its dimensions inside a piece.
    """
    shards = automatic_shards(array)
    pieces = [math.gcd(length, shards) for length in array.shape]
    if math.prod(pieces) == 1 or math.prod(pieces) > max(_MOST_PARTIAL, array.size // 64):
        return array, tuple(range(array.ndim))
    lengths = zip(pieces, array.shape, strict=True)
    shape = [part for piece, length in lengths for part in (piece, length // piece)]
    return array.reshape(shape), tuple(range(1, 2 * array.ndim, 2))
