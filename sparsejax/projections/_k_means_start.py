"""A codebook for Lloyd's iteration to start from: the best one for a histogram."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from sparsejax._dtypes import at_least_float32
from sparsejax.projections._shards import Layout
from sparsejax.projections._sums import histogram, sums

_BINS = 1024
_MOST_OPTIMAL = 256  # values up to this number are placed by dynamic programming over the bins


def starting_codebook(
    leaves: Sequence[jax.Array], layouts: Sequence[Layout], k: int, zeros: bool
) -> jax.Array:
    """A rising codebook [k], optimal for the entries rounded to the means of 1,024 bins.

    Bins are even in u = v / (m + |v|), where m is the mean magnitude, so that a few large entries
    do not empty the bins of the others. From 257 values on they are quantiles of the bins.
    """
    dtype = at_least_float32(*leaves)
    counts, totals = _binned(leaves, layouts, dtype, zeros)
    if k <= _MOST_OPTIMAL:
        return best_of_bins(counts, totals, k)
    below = jnp.cumsum(counts)
    wanted = (jnp.arange(k, dtype=dtype) + 0.5) * (below[-1] / k)
    used = jnp.clip(jnp.searchsorted(below, wanted), 0, _BINS - 1)
    means = totals / jnp.maximum(counts, 1)
    spread = (jnp.arange(k, dtype=dtype) - k / 2) * jnp.finfo(dtype).eps  # no two values are equal
    return jnp.sort(means[used] * (1 + spread))


def _binned(
    leaves: Sequence[jax.Array], layouts: Sequence[Layout], dtype: jnp.dtype, zeros: bool
) -> tuple[jax.Array, jax.Array]:
    """The number of entries in each bin and their sum, in floating point."""

    def magnitude(leaf: jax.Array) -> list[jax.Array]:
        wide = leaf.astype(dtype)
        return [jnp.abs(wide), jnp.ones_like(leaf, dtype=dtype)]

    total, entries = sums(leaves, layouts, magnitude)
    mean = jnp.maximum(total / jnp.maximum(entries, 1), jnp.finfo(dtype).tiny)

    def bins(leaf: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
        wide = leaf.astype(dtype)
        u = wide / (mean + jnp.abs(wide))
        number = jnp.clip(jnp.floor((u + 1) * (_BINS // 2)).astype(jnp.int32), 0, _BINS - 1)
        counted = jnp.isfinite(wide) if zeros else jnp.isfinite(wide) & (wide != 0)
        return jnp.where(counted, number, _BINS), [jnp.ones_like(leaf, dtype=jnp.int32), wide]

    counts, totals = histogram(leaves, layouts, _BINS, bins)
    return counts.astype(dtype), totals


def best_of_bins(counts: jax.Array, totals: jax.Array, k: int) -> jax.Array:
    r"""The best codebook of k values for points that lie in bins, each with a count and a sum.

    With P and S the running counts and sums, the best clusters maximise the sum of

    .. math:: g(i, j) = \frac{(S_j - S_i)^2}{P_j - P_i}

    over clusters of bins i to j, by dynamic programming over all pairs of bins.
    """
    mean = totals.sum() / jnp.maximum(counts.sum(), 1)
    number = jnp.concatenate([jnp.zeros(1, counts.dtype), jnp.cumsum(counts)])
    total = jnp.concatenate([jnp.zeros(1, totals.dtype), jnp.cumsum(totals - counts * mean)])
    size = number[None, :] - number[:, None]
    gain = jnp.where(size > 0, (total[None, :] - total[:, None]) ** 2 / jnp.maximum(size, 1), 0)
    ends = jnp.arange(number.size)
    gain = jnp.where(ends[:, None] <= ends[None, :], gain, -jnp.inf)

    def layer(best: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        candidates = best[:, None] + gain
        return candidates.max(0), candidates.argmax(0)

    _, starts = lax.scan(layer, gain[0], None, k - 1)

    def back(end: jax.Array, starts: jax.Array) -> tuple[jax.Array, jax.Array]:
        return starts[end], starts[end]

    last = jnp.asarray(number.size - 1)
    _, inner = lax.scan(back, last, starts, reverse=True)
    bounds = jnp.concatenate([jnp.zeros(1, inner.dtype), inner, last[None].astype(inner.dtype)])
    return cluster_means(number, total, bounds, mean)


def cluster_means(
    number: jax.Array, total: jax.Array, bounds: jax.Array, mean: jax.Array
) -> jax.Array:
    """The means of clusters from running counts and sums; an empty one has its neighbour's."""
    size = number[bounds[1:]] - number[bounds[:-1]]
    means = (total[bounds[1:]] - total[bounds[:-1]]) / jnp.maximum(size, 1) + mean
    known = jnp.where(size > 0, means, -jnp.inf)
    known = lax.cummax(known)
    # Empty clusters before the first one with entries.
    return jnp.where(jnp.isneginf(known), jnp.min(jnp.where(size > 0, means, jnp.inf)), known)
