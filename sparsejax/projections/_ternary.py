"""The nearest tree with the values -a, 0 and a."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from sparsejax._where import PyTree, Where
from sparsejax.projections._common_scale import project_scaled
from sparsejax.projections._shards import Layout
from sparsejax.projections._sums import histogram, sums

_COARSE, _FINE = 15, 16  # leading bits that choose a bucket, and the bits inside of it
_INFINITE = 0x7F80  # the bucket of infinity; those of NaN are above it
_ROUNDING = 1e-6  # buckets that promise less than this relative gain are not looked into
_POLISH = 4


def project_ternary(
    tree: PyTree, where: Where = None, *, scaled: bool = False, specs: PyTree = None
) -> PyTree:
    r"""Replace each entry of the chosen leaves by -a, 0 or a, whichever is nearest.

    Unscaled, a is 1. Scaled, a and the entries that are not zero minimise the squared error over
    all chosen leaves together: with the magnitudes in falling order and their running sums S_k,

    .. math:: k^* = \arg\max_k S_k / \sqrt{k}, \qquad a = S_{k^*} / k^*

    and the k* largest entries get a with their sign. Nothing is sorted: magnitudes are counted and
    added up in 32,768 buckets by the leading bits of a float32, which bounds S_k / sqrt(k) inside
    each bucket; the few buckets whose bound exceeds the best value found are then counted by all
    bits. So the result is optimal up to the rounding of sums in float32. Each such bucket costs one
    pass over the entries.

    An entry midway between two values takes the one nearer to zero.

    Args:
      tree: pytree of arrays; the chosen leaves are floating point, of any shape.
      where: which leaves are projected together, see `sparsejax`; the others are returned as they
        are.
      scaled: choose a, or keep it at 1.
      specs: inside ``shard_map`` or ``pmap``: what the leaves are pieces of, as in
        `sparsejax.projections.project_l0_ball`.

    Returns:
      A tree like ``tree``. NaN stays NaN. If scaled, a NaN or an infinity under ``jit`` makes every
      chosen entry NaN.

    Raises:
      TypeError: a chosen leaf is not floating point.
      ValueError: ``where`` chooses nothing, ``specs`` does not fit the tree or the mesh, or, if
        scaled, a concrete leaf holds NaN or infinity or a chosen leaf has 2**31 entries or more.

    References:
      Carreira-Perpinan and Idelbayev, Model compression as constrained optimization, with
      application to neural nets. Part II: quantization, 2017 (theorem on ternarization with scale).
    """
    return project_scaled(tree, where, specs, _best_scale if scaled else None, _ternary)


def _ternary(leaf: jax.Array, scale: jax.Array) -> jax.Array:
    wide = leaf.astype(scale.dtype)
    value = scale.astype(leaf.dtype)
    kept = jnp.where(jnp.abs(wide) > scale / 2, jnp.where(wide > 0, value, -value), 0)
    unknown = jnp.isnan(wide) | ~jnp.isfinite(scale)
    return jnp.where(unknown, jnp.nan, kept).astype(leaf.dtype)


class _Best(NamedTuple):
    """The best value of S^2 / k so far, and what can still beat it."""

    value: jax.Array
    scale: jax.Array
    bounds: jax.Array
    """Upper bounds of S^2 / k inside each bucket; minus infinity once a bucket has been counted."""


def _best_scale(
    leaves: Sequence[jax.Array], layouts: Sequence[Layout], dtype: jnp.dtype
) -> jax.Array:
    """The scale a of the optimal support; NaN where an entry is."""
    counts, totals = _coarse(leaves, layouts)
    # From the largest magnitudes down: what lies above each bucket, and what with it.
    number, total = _above(counts), _above(totals)
    ends, reached = number + counts, total + totals
    start = jnp.argmax(_gain(reached, ends))
    first = _Best(
        value=_gain(reached, ends)[start],
        scale=reached[start] / jnp.maximum(ends[start], 1),
        bounds=_bounds(counts, totals, number, total),
    )

    def promising(best: _Best) -> jax.Array:
        return best.bounds.max() > best.value * (1 + _ROUNDING)

    def look_into(best: _Best) -> _Best:
        bucket = jnp.argmax(best.bounds).astype(jnp.int32)
        count = _fine(leaves, layouts, bucket)
        keys = (bucket << _FINE) + jnp.arange(1 << _FINE, dtype=jnp.int32)
        values = lax.bitcast_convert_type(keys, jnp.float32)
        summed = jnp.where(count > 0, count * values, 0)
        ends = number[bucket] + _above(count) + count
        reached = total[bucket] + _above(summed) + summed
        gain = jnp.where(count > 0, _gain(reached, ends), -jnp.inf)
        here = jnp.argmax(gain)
        better = gain[here] > best.value
        return _Best(
            value=jnp.where(better, gain[here], best.value),
            scale=jnp.where(better, reached[here] / jnp.maximum(ends[here], 1), best.scale),
            bounds=best.bounds.at[bucket].set(-jnp.inf),
        )

    best = lax.while_loop(promising, look_into, first)
    polished = _polished(leaves, layouts, best.scale.astype(dtype))
    return jnp.where((counts[_INFINITE:] > 0).any(), jnp.nan, polished)


def _polished(
    leaves: Sequence[jax.Array], layouts: Sequence[Layout], scale: jax.Array
) -> jax.Array:
    """Add up again, in the leaves' dtype, what the scale keeps: this never loses."""

    def step(_: jax.Array, scale: jax.Array) -> jax.Array:
        def terms(leaf: jax.Array) -> list[jax.Array]:
            size = jnp.abs(leaf.astype(scale.dtype))
            kept = ~(size <= scale / 2)  # NaN among it
            return [jnp.where(kept, size, 0), kept.astype(jnp.int32)]

        total, count = sums(leaves, layouts, terms)
        return total / jnp.maximum(count, 1).astype(scale.dtype)

    polished: jax.Array = lax.fori_loop(0, _POLISH, step, scale)
    return polished


def _keys(leaf: jax.Array) -> jax.Array:
    pattern = lax.bitcast_convert_type(leaf.astype(jnp.float32), jnp.int32)
    return pattern & jnp.iinfo(jnp.int32).max


def _coarse(leaves: Sequence[jax.Array], layouts: Sequence[Layout]) -> tuple[jax.Array, jax.Array]:
    def entries(leaf: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
        key = _keys(leaf)
        # What a magnitude exceeds the least one of its bucket by: sums of magnitudes themselves
        # would stop growing in a bucket with many entries.
        least = lax.bitcast_convert_type(key >> _FINE << _FINE, jnp.float32)
        above = jnp.abs(leaf.astype(jnp.float32)) - least
        return key >> _FINE, [jnp.ones_like(leaf, dtype=jnp.int32), above]

    counts, above = histogram(leaves, layouts, 1 << _COARSE, entries)
    counts = counts.astype(jnp.float32)
    return counts, jnp.where(counts > 0, counts * _least(), 0) + above


def _fine(leaves: Sequence[jax.Array], layouts: Sequence[Layout], bucket: jax.Array) -> jax.Array:
    def entries(leaf: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
        keys = _keys(leaf)
        inside = (keys >> _FINE) == bucket
        number = jnp.where(inside, keys & ((1 << _FINE) - 1), 1 << _FINE)
        return number, [jnp.ones_like(leaf, dtype=jnp.int32)]

    (counts,) = histogram(leaves, layouts, 1 << _FINE, entries)
    return counts.astype(jnp.float32)


def _least() -> jax.Array:
    """Return the least magnitude of each bucket."""
    keys = jnp.arange(1 << _COARSE, dtype=jnp.int32) << _FINE
    return lax.bitcast_convert_type(keys, jnp.float32)


def _above(values: jax.Array) -> jax.Array:
    """Return, for each bucket, the sum over the buckets of larger magnitudes."""
    running = jnp.cumsum(values[::-1])[::-1]
    return jnp.concatenate([running[1:], jnp.zeros(1, values.dtype)])


def _gain(total: jax.Array, count: jax.Array) -> jax.Array:
    """S^2 / k: by how much a support lowers the squared error."""
    return jnp.where(count > 0, total**2 / jnp.maximum(count, 1), 0)


def _bounds(counts: jax.Array, totals: jax.Array, number: jax.Array, total: jax.Array) -> jax.Array:
    """An upper bound of S^2 / k inside of each bucket that holds two or more entries.

    Inside of a bucket with magnitudes from l to h, after m of its c entries S is at most
    S_before + m h and at most S_after - (c - m) l. Each bound of S^2 / k is largest at an end of
    the range of m where it is the smaller one, so the maximum is at 0, at c, or where the two meet.
    """
    low = _least()
    keys = lax.bitcast_convert_type(low, jnp.int32)
    high = lax.bitcast_convert_type(keys + ((1 << _FINE) - 1), jnp.float32)
    meet = jnp.clip((totals - counts * low) / jnp.maximum(high - low, 1e-45), 0, counts)
    between = _gain(total + meet * high, number + meet)
    return jnp.where((counts > 1) & jnp.isfinite(high), between, -jnp.inf)
