"""Search for a threshold by counting passes, each of which counts the keys at several thresholds.

Each pass narrows a bracket to the interval between two neighbouring thresholds. The thresholds are
placed where the answer is expected, not evenly: keys are nearly uniform inside a small bracket, so
the position of the wanted key is known up to a few standard deviations of a binomial variable.
Counts are exact, and thresholds that miss the answer leave a wider bracket, so the result does not
depend on where they are placed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

Count = Callable[[jax.Array], jax.Array]
Excess = Callable[[jax.Array], jax.Array]


class Bracket(NamedTuple):
    """A half-open interval ``[low, high)`` that holds the wanted key."""

    low: jax.Array
    """The lower end, a key."""
    high: jax.Array
    """The upper end, a key."""
    reached: jax.Array
    """int32 array [n]: for each leaf the number of keys >= ``low``, together enough."""
    above: jax.Array
    """int32 array [n]: for each leaf the number of keys >= ``high``, together too few."""


class _Search(NamedTuple):
    """The state of the search loop."""

    bracket: Bracket
    over: jax.Array
    """The excess of ``bracket.reached``, which is >= 0."""
    under: jax.Array
    """The excess of ``bracket.above``, which is < 0."""
    thresholds: jax.Array
    """The thresholds of the next pass."""
    beyond: jax.Array
    """The first pass's counts at its last threshold; -1 before that pass."""


def search(
    count: Count,
    excess: Excess,
    bracket: Bracket,
    smooth: float | jax.Array,
    number: int,
    first: jax.Array | None = None,
) -> tuple[Bracket, jax.Array]:
    """Narrow a bracket until exactly the wanted keys reach its low end or it holds a single key.

    Args:
      count: ``thresholds [T] -> counts [T, n]``, int32: the number of keys of each of n leaves that
        reach each threshold.
      excess: ``counts [..., n] -> [...]``, int32: how many more keys these are than wanted, all
        leaves together. It may saturate, but its sign and a zero are exact.
      bracket: the initial bracket. It is finished if the excess of ``reached`` is 0.
      smooth: a distance between keys over which their density may change by an order of magnitude.
      number: the number T of thresholds of a pass, a power of two minus one.
      first: thresholds [T] for the first pass, in any order, from information beyond the bracket.
        If given, the first pass is made even if the bracket is finished.

    Returns:
      The final bracket, and the first pass's counts [n] at its last threshold.
    """
    at_least_once = first is not None
    over, under = excess(bracket.reached), excess(bracket.above)
    if first is None:
        first = _thresholds(bracket, over, under, smooth, number, jnp.asarray(False))

    def unfinished(state: _Search) -> jax.Array:
        finished = (state.bracket.high - state.bracket.low <= 1) | (state.over == 0)
        return ~finished | (state.beyond[0] < 0) if at_least_once else ~finished

    def narrow(state: _Search) -> _Search:
        old, thresholds = state.bracket, state.thresholds
        counts = count(thresholds)
        excesses = excess(counts)
        # Counts decrease as thresholds increase: the low end moves up to the last threshold that
        # enough keys reach, the high end down to the first threshold that too few keys reach.
        enough = (excesses >= 0) & (thresholds > old.low) & (thresholds < old.high)
        short = (excesses < 0) & (thresholds < old.high)
        low = jnp.where(enough, thresholds, old.low).max()
        high = jnp.where(short, thresholds, old.high).min()
        new = Bracket(
            low,
            high,
            jnp.where(enough[:, None], counts, old.reached).min(0),
            jnp.where(short[:, None], counts, old.above).max(0),
        )
        over = jnp.where(enough, excesses, state.over).min()
        under = jnp.where(short, excesses, state.under).max()
        missed = (high - low) > (old.high - old.low) >> 2
        following = _thresholds(new, over, under, smooth, number, missed)
        beyond = jnp.where(state.beyond < 0, counts[-1], state.beyond)
        return _Search(new, over, under, following, beyond)

    unknown = bracket.reached * 0 - 1
    start = _Search(bracket, over, under, jnp.asarray(first, bracket.low.dtype), unknown)
    last = lax.while_loop(unfinished, narrow, start)
    return last.bracket, last.beyond


def _thresholds(
    bracket: Bracket,
    over: jax.Array,
    under: jax.Array,
    smooth: float | jax.Array,
    number: int,
    evenly: jax.Array,
) -> jax.Array:
    """Return thresholds in a bracket, around the wanted key's expected position or evenly."""
    low, high = bracket.low, bracket.high
    dtype = low.dtype
    real = jnp.float64 if dtype.itemsize == 8 else jnp.float32
    width = high - low
    even = jnp.maximum(width >> (number.bit_length()), 1)
    keys = jnp.maximum(over.astype(real) - under.astype(real), 1)
    below = over.astype(real) / keys  # the fraction of the bracket's keys below
    noise = jnp.sqrt(below * (1 - below) / keys) + 0.25 / keys
    wide = width.astype(real)
    bend = wide / (4.0 * smooth)  # the change of the density over the bracket
    # With few keys, aiming for the gap above the wanted key is best; with many, enclosing it.
    apart = jnp.where(keys < 64, 0.5, 0.8) * (3.0 / (number // 2))
    step = (wide * jnp.minimum(apart * noise + bend, 1 / (number + 1))).astype(dtype)
    step = jnp.where(evenly, even, jnp.clip(step, 1, even))
    centre = low + jnp.minimum(wide * below, wide * 0.999).astype(dtype)
    first = jnp.clip(
        centre - (number // 2) * step,
        low + step,
        jnp.maximum(high - number * step, low + step),
    )
    return jnp.minimum(first + jnp.arange(number, dtype=dtype) * step, high)
