"""The optimal codebook by dynamic programming over the sorted entries."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from sparsejax._dtypes import at_least_float32
from sparsejax.projections._k_means_start import cluster_means


def exact_codebook(leaves: Sequence[jax.Array], k: int, zeros: bool) -> jax.Array:
    r"""The rising codebook [k] of the least squared error over all entries.

    Clusters are runs of the sorted entries. With P and S the running counts and sums,
    k-means maximises the sum of g(i, j) = (S_j - S_i)^2 / (P_j - P_i) over its clusters, so

    .. math:: D_m(j) = \max_{i \le j} D_{m-1}(i) + g(i, j)

    The best i never falls as j rises. So each layer is found by halving: the best i for every
    second j lies between those of its neighbours. A layer costs log2(n) passes over the entries,
    and the last one, which is needed at j = n alone, costs one.

    Args:
      leaves: arrays of any shapes, floating point.
      k: how many values.
      zeros: whether entries that are zero count.
    """
    dtype = at_least_float32(*leaves)
    entries = jnp.sort(jnp.concatenate([leaf.reshape(-1).astype(dtype) for leaf in leaves]))
    length = max(1, entries.size)
    padded = 1 << (length - 1).bit_length()
    weight = jnp.ones(entries.shape, dtype) if zeros else (entries != 0).astype(dtype)
    mean = (entries * weight).sum() / jnp.maximum(weight.sum(), 1)
    number = _running(weight, padded)
    total = _running((entries - mean) * weight, padded)

    def gain(i: jax.Array, j: jax.Array) -> jax.Array:
        size = number[j] - number[i]
        return jnp.where(size > 0, (total[j] - total[i]) ** 2 / jnp.maximum(size, 1), 0)

    every = jnp.arange(padded + 1)
    first = gain(jnp.zeros_like(every), every)

    def layer(best: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        starts = _monotone_argmax(lambda i, j: best[i] + gain(i, j), padded)
        return best[starts] + gain(starts, every), starts

    def back(end: jax.Array, starts: jax.Array) -> tuple[jax.Array, jax.Array]:
        return starts[end], starts[end]

    if k == 1:
        inner = jnp.zeros(0, every.dtype)
    else:
        best, starts = lax.scan(layer, first, None, k - 2)
        last = jnp.argmax(best + gain(every, jnp.full_like(every, padded)))
        _, inner = lax.scan(back, last, starts, reverse=True)
        inner = jnp.concatenate([inner, last[None]]).astype(every.dtype)
    ends = jnp.asarray([0, padded], every.dtype)
    return cluster_means(number, total, jnp.concatenate([ends[:1], inner, ends[1:]]), mean)


def _running(values: jax.Array, padded: int) -> jax.Array:
    """Running sums with a zero before them, continued to ``padded + 1`` entries."""
    values = jnp.pad(values, (1, padded - values.size))
    return jnp.cumsum(values)


def _monotone_argmax(value: Callable[[jax.Array, jax.Array], jax.Array], n: int) -> jax.Array:
    """Return, for each j in 0 ... n, the i <= j with the largest value(i, j); that i rises with j.

    Args:
      value: of two integer arrays of one shape.
      n: a power of two.
    """
    every = jnp.arange(n + 1)
    last = jnp.argmax(value(every, jnp.full_like(every, n))).astype(every.dtype)
    # The barrier keeps XLA from folding a running sum of n constants when it compiles.
    found: jax.Array = lax.optimization_barrier(jnp.zeros(n + 1, every.dtype).at[n].set(last))
    step = n // 2
    while step:
        ends = jnp.arange(step, n, 2 * step)
        low = found[ends - step]
        # The candidates of all j one after the other: those of j number q begin at low[q] + q,
        # since neighbours share one candidate.
        positions = jnp.arange(n + ends.size)
        row = jnp.zeros(positions.size, every.dtype).at[low + jnp.arange(ends.size)].add(1)
        row = jnp.cumsum(row) - 1
        i = jnp.minimum(positions - row, n)
        j = ends[row]
        high = found[ends + step]
        allowed = (i <= j) & (i <= high[row])
        values = jnp.where(allowed, value(i, j), -jnp.inf)
        best = jax.ops.segment_max(values, row, ends.size, indices_are_sorted=True)
        hit = jnp.where(values == best[row], i, n)
        least = jax.ops.segment_min(hit, row, ends.size, indices_are_sorted=True)
        found = found.at[ends].set(least)
        step //= 2
    return found
