"""Search for a threshold by counting passes, each of which counts the keys at seven thresholds.

Each pass narrows a bracket to the interval between two neighbouring thresholds. The thresholds are
placed where the answer is expected, not evenly: keys are nearly uniform inside a small bracket, so
the position of the wanted key is known up to a few standard deviations of a binomial variable.
Counts are exact, and thresholds that miss the answer leave a wider bracket, so the result does not
depend on where they are placed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

THRESHOLDS = 7  # a pass that counts more than eight thresholds is slower on XLA:CPU

Count = Callable[[Sequence[jax.Array]], Sequence[jax.Array]]


class Bracket(NamedTuple):
    """A half-open interval ``[low, high)`` that holds the wanted key."""

    low: jax.Array
    """The lower end, a key."""
    high: jax.Array
    """The upper end, a key."""
    reached: jax.Array
    """int32 scalar: the number of keys >= ``low``, which is at least the wanted number."""
    above: jax.Array
    """int32 scalar: the number of keys >= ``high``, which is less than the wanted number."""


class _Search(NamedTuple):
    """The state of the search loop."""

    bracket: Bracket
    thresholds: tuple[jax.Array, ...]
    """The thresholds of the next pass."""
    beyond: jax.Array
    """The first pass's count at its last threshold; -1 before that pass."""


def search(
    count: Count,
    wanted: jax.Array,
    bracket: Bracket,
    smooth: float,
    first: Sequence[jax.Array] | None = None,
) -> tuple[Bracket, jax.Array]:
    """Narrow a bracket until exactly ``wanted`` keys reach its low end or it holds a single key.

    Args:
      count: ``thresholds -> counts``, the number of keys that reach each of seven thresholds.
      wanted: int32 scalar, the wanted number of keys.
      bracket: the initial bracket. It is finished if ``reached`` equals ``wanted``.
      smooth: a distance between keys over which their density may change by an order of magnitude.
      first: thresholds for the first pass, in any order, from information beyond the bracket. If
        given, the first pass is made even if the bracket is finished.

    Returns:
      The final bracket, and the first pass's count at its last threshold.
    """
    at_least_once = first is not None
    if first is None:
        first = _thresholds(bracket, wanted, smooth, jnp.asarray(False))
    start = tuple(jnp.asarray(threshold, bracket.low.dtype) for threshold in first)

    def unfinished(state: _Search) -> jax.Array:
        low, high, reached, _ = state.bracket
        finished = (high - low <= 1) | (reached == wanted)
        return ~finished | (state.beyond < 0) if at_least_once else ~finished

    def narrow(state: _Search) -> _Search:
        old, thresholds = state.bracket, state.thresholds
        counts = count(thresholds)
        low, high, reached, above = old
        # Counts decrease as thresholds increase: the low end moves up to the last threshold that
        # enough keys reach, the high end down to the first threshold that too few keys reach.
        for threshold, number in zip(thresholds, counts, strict=True):
            enough = (number >= wanted) & (threshold > low) & (threshold < old.high)
            low = jnp.where(enough, threshold, low)
            reached = jnp.where(enough, number, reached)
            short = (number < wanted) & (threshold < high)
            high = jnp.where(short, threshold, high)
            above = jnp.where(short, number, above)
        new = Bracket(low, high, reached, above)
        missed = (high - low) > (old.high - old.low) >> 2
        beyond = jnp.where(state.beyond < 0, counts[-1], state.beyond)
        return _Search(new, _thresholds(new, wanted, smooth, missed), beyond)

    unknown = bracket.reached * 0 - 1
    last = lax.while_loop(unfinished, narrow, _Search(bracket, start, unknown))
    return last.bracket, last.beyond


def _thresholds(
    bracket: Bracket, wanted: jax.Array, smooth: float, evenly: jax.Array
) -> tuple[jax.Array, ...]:
    """Return seven thresholds in a bracket, around the wanted key's expected position or evenly."""
    low, high, reached, above = bracket
    dtype = low.dtype
    real = jnp.float64 if dtype.itemsize == 8 else jnp.float32
    width = high - low
    even = jnp.maximum(width >> 3, 1)
    keys = jnp.maximum(reached - above, 1).astype(real)
    below = (reached - wanted).astype(real) / keys  # the fraction of the bracket's keys below
    noise = jnp.sqrt(below * (1 - below) / keys) + 0.25 / keys
    bend = width.astype(real) / (4.0 * smooth)  # the change of the density over the bracket
    wide = width.astype(real)
    # With few keys, aiming for the gap above the wanted key is best; with many, enclosing it.
    apart = jnp.where(keys < 64, 0.5, 0.8)
    step = (wide * jnp.minimum(apart * noise + bend, 0.125)).astype(dtype)
    step = jnp.where(evenly, even, jnp.clip(step, 1, even))
    centre = low + jnp.minimum(wide * below, wide * 0.999).astype(dtype)
    first = jnp.clip(
        centre - 3 * step, low + step, jnp.maximum(high - THRESHOLDS * step, low + step)
    )
    return tuple(jnp.minimum(first + way * step, high) for way in range(THRESHOLDS))
