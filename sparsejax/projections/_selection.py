"""Exact selection of the largest entries by counting: no sort, no copy into one vector.

Magnitudes are compared as integers: the bit pattern of |w| grows with |w|. The threshold is found
by narrowing a bracket, counting in each pass over the weights how many keys reach each of seven
thresholds inside it; the counts are exact, so the result is too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_SPLIT = 3  # a pass splits the bracket in 2**3 parts: seven counts, one variadic reduction


class Keys(NamedTuple):
    """Integer arrays that grow with the magnitudes they stand for."""

    leaves: list[jax.Array]
    infinity: int
    """The key of an infinite magnitude; only NaN has a larger one."""


class Cut(NamedTuple):
    """A threshold on keys: ``reached`` keys are at or above it, ``above`` are strictly above it.

    ``above`` means something only where the threshold is itself the wanted key, that is where
    ``reached`` is not the wanted number.
    """

    threshold: jax.Array
    reached: jax.Array
    above: jax.Array


def magnitude_keys(leaves: Sequence[jax.Array]) -> Keys:
    """Keys that rank the entries of all leaves together by magnitude, exactly.

    Leaves of one 16-bit dtype keep their own 15 bits; a mixture is compared in the widest of
    float32 and the dtypes present (every conversion made here is exact, subnormals included).
    """
    dtypes = {leaf.dtype for leaf in leaves}
    common = dtypes.pop() if len(dtypes) == 1 else jnp.dtype(jnp.float32)
    if jnp.dtype(jnp.float64) in dtypes:
        common = jnp.dtype(jnp.float64)
    if common.itemsize == 1:
        common = jnp.dtype(jnp.float32)
    bits = {2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint64}[common.itemsize]
    signed = jnp.int64 if common.itemsize == 8 else jnp.int32
    largest = jnp.iinfo(bits).max >> 1  # all bits but the sign

    def key(leaf: jax.Array) -> jax.Array:
        if leaf.dtype == jnp.bfloat16 and common == jnp.float32:
            pattern = lax.bitcast_convert_type(leaf, jnp.uint16).astype(jnp.uint32) << 16
        else:
            pattern = lax.bitcast_convert_type(leaf.astype(common), bits)
        return (pattern & bits(largest)).astype(signed)

    infinity = int(np.asarray(np.inf, common).view(bits))
    return Keys([key(lax.stop_gradient(leaf)) for leaf in leaves], infinity)


def largest_masks(
    leaves: Sequence[jax.Array], kappa: jax.Array
) -> tuple[list[jax.Array], jax.Array]:
    """Masks of the ``kappa`` largest magnitudes of all leaves together, and whether any is NaN.

    Of equal magnitudes at the threshold the earlier ones are chosen: earlier leaf, then earlier
    entry in row-major order.
    """
    keys = magnitude_keys(leaves)
    any_nan = _count_reaching(keys.leaves, [keys.infinity + 1])[0] > 0
    cut = find_cut(keys.leaves, kappa, keys.infinity + 1)
    clean = cut.reached == kappa
    starts = lax.cond(
        clean,
        lambda: [jnp.zeros((), jnp.int32) for _ in leaves],
        lambda: _tie_starts(keys.leaves, cut, kappa),
    )
    masks = [
        (key > cut.threshold) | ((key == cut.threshold) & (_positions_from_end(key) >= start))
        for key, start in zip(keys.leaves, starts, strict=True)
    ]
    return masks, any_nan


def find_cut(keys: Sequence[jax.Array], kappa: jax.Array, end: int | jax.Array) -> Cut:
    """The cut that at least ``kappa`` keys reach and fewer than ``kappa`` lie above.

    Keys are integers in ``[0, end)``; larger ones count as reaching every threshold. The search
    ends early where exactly ``kappa`` keys reach some threshold: then nothing is tied across it.
    """
    dtype = keys[0].dtype
    total = jnp.asarray(sum(key.size for key in keys), jnp.int32)

    def unfinished(state):
        low, high, reached, _ = state
        return (high - low > 1) & (reached != kappa)

    def narrow(state):
        low, high, reached, above = state
        step = jnp.maximum((high - low) >> _SPLIT, 1)
        inside = [jnp.minimum(low + step * way, high) for way in range(1, 1 << _SPLIT)]
        counts = _count_reaching(keys, inside)
        # Counts fall as thresholds rise: move the low end up while it is still reached by
        # kappa keys, and the high end down to the first threshold that is not.
        for threshold, count in zip(inside, counts, strict=True):
            enough = (count >= kappa) & (threshold < high)
            low = jnp.where(enough, threshold, low)
            reached = jnp.where(enough, count, reached)
        for threshold, count in reversed(list(zip(inside, counts, strict=True))):
            short = (count < kappa) & (threshold < high)
            above = jnp.where(short, count, above)
            high = jnp.where(short, threshold, high)
        return low, high, reached, above

    start = (jnp.asarray(0, dtype), jnp.asarray(end, dtype), total, jnp.asarray(0, jnp.int32))
    low, _, reached, above = lax.while_loop(unfinished, narrow, start)
    return Cut(low, reached, above)


def _count_reaching(
    keys: Sequence[jax.Array], thresholds: Sequence[int | jax.Array]
) -> list[jax.Array]:
    """How many keys reach each threshold: one pass over each leaf, whatever the number asked."""
    counts = [jnp.asarray(0, jnp.int32) for _ in thresholds]
    for key in keys:
        hits = tuple((key >= threshold).astype(jnp.int32) for threshold in thresholds)
        zeros = tuple(jnp.asarray(0, jnp.int32) for _ in thresholds)
        add = lambda left, right: tuple(a + b for a, b in zip(left, right, strict=True))  # noqa: E731
        sums = lax.reduce(hits, zeros, add, tuple(range(key.ndim)))
        counts = [count + extra for count, extra in zip(counts, sums, strict=True)]
    return counts


def _tie_starts(keys: Sequence[jax.Array], cut: Cut, kappa: jax.Array) -> list[jax.Array]:
    """From which position (counted from the end of its leaf) ties at the cut are chosen.

    The first ties of a leaf are those with the largest positions from its end, so this is the
    same selection again, with positions as keys: they differ, so it always ends cleanly.
    """
    left = kappa - cut.above
    starts = []
    for key in keys:
        ties = jnp.where(key == cut.threshold, _positions_from_end(key) + 1, 0)
        here = jnp.minimum(_count_reaching([ties], [1])[0], left)
        # Key 0 stands for "no tie"; a leaf that gets none starts past every position.
        start = find_cut([ties], here, key.size + 1).threshold - 1
        starts.append(jnp.where(here > 0, start, key.size))
        left = left - here
    return starts


def _positions_from_end(leaf: jax.Array) -> jax.Array:
    """For each entry how many entries follow it in row-major order (int32)."""
    position = jnp.full(leaf.shape, leaf.size - 1, jnp.int32)
    stride = 1
    for axis in reversed(range(leaf.ndim)):
        position = position - lax.broadcasted_iota(jnp.int32, leaf.shape, axis) * stride
        stride *= leaf.shape[axis]
    return position
