"""Search for a threshold by counting: each pass counts how many keys reach seven thresholds.

A bracket is narrowed to the part between two neighbouring thresholds. They are laid where the
answer is expected, not evenly: inside a small bracket keys are spread almost evenly, so the place
of the wanted one is known up to a few standard deviations of a binomial. Counts are exact and a
wrong guess only leaves a wider bracket, so the result never depends on the guesses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

THRESHOLDS = 7  # a pass that counts more than eight thresholds is dearer on XLA:CPU

Count = Callable[[Sequence[jax.Array]], Sequence[jax.Array]]


class Bracket(NamedTuple):
    """The wanted key is from ``low`` to just below ``high``."""

    low: jax.Array
    high: jax.Array
    reached: jax.Array
    """int32: how many keys are at or above ``low``; at least as many as wanted."""
    above: jax.Array
    """int32: how many keys are at or above ``high``; fewer than wanted."""


class _Search(NamedTuple):
    bracket: Bracket
    thresholds: tuple[jax.Array, ...]
    beyond: jax.Array
    """The first pass's count at its last threshold."""


def search(
    count: Count,
    wanted: jax.Array,
    bracket: Bracket,
    smooth: float,
    first: Sequence[jax.Array] | None = None,
) -> tuple[Bracket, jax.Array]:
    """Narrow ``bracket`` until ``wanted`` keys reach its low end, or it holds a single key.

    Args:
      count: ``thresholds -> counts``, how many keys reach each of seven thresholds.
      wanted: int32 scalar.
      bracket: where to begin. It counts as finished if ``reached`` is ``wanted`` already.
      smooth: a distance of keys over which their density may change by an order of magnitude.
      first: thresholds for the first pass, in any order, if more is known than the bracket says.
        With them that pass is made even if the bracket is finished.

    Returns:
      The last bracket, and the first pass's count at its last threshold.
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
        # Counts fall as thresholds rise: move the low end up while it is still reached by enough
        # keys, and the high end down to the first threshold that is not.
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
    """Seven thresholds inside a bracket: around the expected place of the wanted key, or evenly."""
    low, high, reached, above = bracket
    dtype = low.dtype
    real = jnp.float64 if dtype.itemsize == 8 else jnp.float32
    width = high - low
    even = jnp.maximum(width >> 3, 1)
    keys = jnp.maximum(reached - above, 1).astype(real)
    below = (reached - wanted).astype(real) / keys  # the share of the bracket's keys below
    noise = jnp.sqrt(below * (1 - below) / keys) + 0.25 / keys
    bend = width.astype(real) / (4.0 * smooth)  # of the density over the bracket
    wide = width.astype(real)
    # Among few keys it is best to try for the gap above the wanted one, among many to enclose it.
    apart = jnp.where(keys < 64, 0.5, 0.8)
    step = (wide * jnp.minimum(apart * noise + bend, 0.125)).astype(dtype)
    step = jnp.where(evenly, even, jnp.clip(step, 1, even))
    centre = low + jnp.minimum(wide * below, wide * 0.999).astype(dtype)
    first = jnp.clip(
        centre - 3 * step, low + step, jnp.maximum(high - THRESHOLDS * step, low + step)
    )
    return tuple(jnp.minimum(first + way * step, high) for way in range(THRESHOLDS))
