"""Estimates of the threshold from a small strided sample of the weights."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from sparsejax.projections._count import add_up, count_reaching, varying_zero
from sparsejax.projections._keys import KeyFormat
from sparsejax.projections._shards import Layout, automatic_shards

_ENOUGH = 2**12  # minimum number of sampled entries of a leaf that has as many
_STRIDE = 2**8  # stride of the sample of a large leaf
_DEVIATIONS = (3.5, 1.2, 0.4, -0.4, -1.2, -3.5)  # in standard deviations of the wanted rank


def sampled_thresholds(
    leaves: Sequence[jax.Array],
    layouts: Sequence[Layout],
    keys: KeyFormat,
    kappa: jax.Array,
    total: int,
) -> list[jax.Array]:
    """Return six increasing thresholds around the one that ``kappa`` of ``total`` entries reach.

    The thresholds are order statistics of a strided sample, spaced by the standard deviation of the
    wanted entry's rank in a random sample. Where the strided sample is not representative, they may
    lie far from the threshold, which the search that uses them tolerates.
    """
    samples, strides = zip(*(_sample(leaf) for leaf in leaves), strict=True)
    ranks = kappa.astype(jnp.float32)
    variance = ranks * (1 - ranks / total) * max(strides)
    spread = jnp.sqrt(jnp.maximum(variance, 0)) + max(strides)
    wanted = [ranks + deviation * spread for deviation in _DEVIATIONS]

    def estimates(thresholds: Sequence[jax.Array]) -> list[jax.Array]:
        counts = []
        for sample, stride in zip(samples, strides, strict=True):
            hits = count_reaching(keys.keys(sample), thresholds)
            counts.append([number.astype(jnp.float32) * stride for number in hits])
        return add_up(counts, layouts)

    def refine(number: jax.Array, thresholds: list[jax.Array]) -> list[jax.Array]:
        # Finds the largest threshold that enough sampled entries reach, from its highest bit down.
        bit = jnp.asarray(1, keys.bits) << (top - number).astype(keys.bits)
        raised = [threshold | bit for threshold in thresholds]
        return [
            jnp.where((guess >= rank) & (new <= keys.infinity), new, old)
            for guess, rank, new, old in zip(
                estimates(raised), wanted, raised, thresholds, strict=True
            )
        ]

    top = 8 * keys.bits.itemsize - 2
    zero = varying_zero(leaves, layouts).astype(keys.bits)
    thresholds: list[jax.Array] = lax.fori_loop(0, top + 1, refine, [zero] * len(wanted))
    return thresholds


def _sample(leaf: jax.Array) -> tuple[jax.Array, float]:
    """Return a strided sample of a leaf and the number of entries that each sample represents.

    The stride is distributed over the dimensions such that no step crosses a shard boundary for any
    even sharding that the compiler may choose. So sampling moves no data between devices.
    """
    if not leaf.size:
        return leaf, 1.0
    size, most = leaf.size, max(1, min(_STRIDE, leaf.size // _ENOUGH))
    shards = automatic_shards(leaf)
    for limit in (math.isqrt(most), most):
        for axis in reversed(range(leaf.ndim)):
            length = leaf.shape[axis]
            piece = length // math.gcd(length, shards)
            allowed = max(1, min(limit, most * leaf.size // size))
            step = max(d for d in range(1, allowed + 1) if piece % d == 0 or piece == length)
            if piece == length:  # this dimension is not sharded
                leaf = lax.slice_in_dim(leaf, 0, length, min(step, length), axis)
            elif step > 1:
                grouped = (*leaf.shape[:axis], length // step, step, *leaf.shape[axis + 1 :])
                leaf = lax.index_in_dim(leaf.reshape(grouped), 0, axis + 1, keepdims=False)
    return leaf, size / leaf.size
