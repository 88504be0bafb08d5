"""Estimates of the threshold from a small strided sample of the weights."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from sparsejax.projections._count import count_reaching, kind_on_mesh, table, varying_zero
from sparsejax.projections._keys import KeyFormat
from sparsejax.projections._shards import Layout, automatic_shards

_ENOUGH = 2**12  # minimum number of sampled entries of a sharded leaf that has as many
_STRIDE = 2**8  # stride of the sample of a large sharded leaf
_ODD_STRIDE = 257  # prime, so that the sample of whole leaves does not stay in few columns
_WIDEST = 3.5  # the outermost thresholds, in standard deviations of the wanted rank

Sample = tuple[jax.Array, float, Layout]
"""Keys of sampled entries, the number of entries that each of them represents, and a layout."""


def sampled_thresholds(
    leaves: Sequence[jax.Array],
    layouts: Sequence[Layout],
    keys: KeyFormat,
    kappa: jax.Array,
    total: int,
    number: int,
) -> jax.Array:
    """Return increasing thresholds around the one that ``kappa`` of ``total`` entries reach.

    Two order statistics of a strided sample enclose the wanted entry at ``_WIDEST`` standard
    deviations of its rank in a random sample, and the thresholds lie between them, denser in the
    middle. Where the sample is not representative, they may lie far from the threshold, which the
    search that uses them tolerates.

    Args:
      leaves: arrays.
      layouts: the layout of each leaf.
      keys: the format of the keys.
      kappa: float32 scalar.
      total: the number of entries of all leaves.
      number: the even number of thresholds to return, which is also the number that is counted in
        each pass over the sample.

    Returns:
      An array of ``number`` keys.
    """
    samples = _samples(leaves, layouts, keys)
    coarsest = max(stride for _, stride, _ in samples)
    variance = kappa * (1 - kappa / float(total)) * coarsest
    spread = _WIDEST * (jnp.sqrt(jnp.maximum(variance, 0)) + coarsest)
    wanted = jnp.stack([kappa + spread, kappa - spread])
    zero = varying_zero(leaves, layouts).astype(keys.bits)
    lowest, highest = _order_statistics(samples, keys, wanted, zero, number // 2)
    apart = np.sinh(np.linspace(-2.2, 2.2, number)) / np.sinh(2.2) / 2
    real = jnp.float64 if keys.bits.itemsize == 8 else jnp.float32
    width = highest - lowest
    away = jnp.round(width.astype(real) * jnp.asarray(apart, real)).astype(keys.bits)
    # In 16 bits few keys lie between the two: then the thresholds are neighbours, so that the first
    # pass ends at a single key.
    nearest = np.arange(1 - number // 2, number // 2 + 1, dtype=keys.bits)
    away = jnp.where(nearest > 0, jnp.maximum(away, nearest), jnp.minimum(away, nearest))
    thresholds: jax.Array = jnp.clip(lowest + (width >> 1) + away, 0, keys.infinity)
    return thresholds


def _order_statistics(
    samples: Sequence[Sample], keys: KeyFormat, wanted: jax.Array, zero: jax.Array, each: int
) -> jax.Array:
    """Return for each of some ranks the largest key that as many entries reach, by the samples.

    Each pass finds a digit of all these keys, from ``each = 2**d - 1`` counts for each of them. The
    number of passes is known, so that no device waits for the host.
    """
    digit_bits = each.bit_length()
    passes = -(-(8 * keys.bits.itemsize - 1) // digit_bits)
    digits = jnp.arange(1, each + 1, dtype=keys.bits)
    strides = jnp.asarray([stride for _, stride, _ in samples], jnp.float32)

    def refine(number: jax.Array, found: jax.Array) -> jax.Array:
        shift = (digit_bits * (passes - 1 - number)).astype(keys.bits)
        raised = found[:, None] | (digits << shift)
        flat = raised.reshape(-1)
        counts = table([count_reaching(s, flat) for s, *_ in samples], [x for *_, x in samples])
        estimates = (counts.astype(jnp.float32) * strides).sum(1).reshape(raised.shape)
        # The highest digit may not fit: what overflows is negative or repeats a smaller digit.
        enough = (estimates >= wanted[:, None]) & (raised >= found[:, None])
        return jnp.where(enough & (raised <= keys.infinity), raised, found[:, None]).max(1)

    start = jnp.zeros(wanted.shape, keys.bits) + zero
    result: jax.Array = lax.fori_loop(0, passes, refine, start)
    return result


def _samples(
    leaves: Sequence[jax.Array], layouts: Sequence[Layout], keys: KeyFormat
) -> list[Sample]:
    """Return samples of all leaves: one array where the compiler cannot have sharded a leaf."""
    pairs = list(zip(leaves, layouts, strict=True))
    if any(automatic_shards(leaf) > 1 for leaf in leaves):
        sampled = [(*_sample_as_sharded(leaf), layout) for leaf, layout in pairs]
        return [(keys.keys(sample), stride, layout) for sample, stride, layout in sampled]
    parts: dict[Hashable, list[jax.Array]] = {}
    layout_of: dict[Hashable, Layout] = {}
    passed = 0
    for leaf, layout in pairs:
        # As many as if the leaves were one array, in the middle of each: so XLA:CPU generates code
        # at most twice for all leaves of a shape.
        before = -(-passed // _ODD_STRIDE)
        passed += leaf.size
        number = -(-passed // _ODD_STRIDE) - before
        if number:
            length = (number - 1) * _ODD_STRIDE + 1
            first = (leaf.size - length) // 2
            part = lax.slice_in_dim(leaf.reshape(-1), first, first + length, _ODD_STRIDE)
            kind = (leaf.dtype, kind_on_mesh(leaf, layout))
            parts.setdefault(kind, []).append(part)
            layout_of[kind] = Layout((tuple(sorted(layout.names)),))
    stride = float(_ODD_STRIDE)
    return [
        (keys.keys(jnp.concatenate(found)), stride, layout_of[kind])
        for kind, found in parts.items()
    ]


def _sample_as_sharded(leaf: jax.Array) -> tuple[jax.Array, float]:
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
