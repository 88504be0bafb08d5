"""Schedules that say at which updates weights are pruned, and how many."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, Int32

from sparsejax import _checks

_MOST_UPDATES = 10**6


class PruningSchedule(NamedTuple):
    """The updates at which a mask is renewed, and how far pruning has progressed at each.

    Masks are renewed at ``begin``, then every ``every`` updates, and at ``end``.
    """

    begin: int
    """The number of the first such update, counted from 0."""
    end: int
    """The number of the last one."""
    every: int
    """The number of updates from one to the next."""
    ramp: Callable[[Fraction], Fraction]
    """The progress, from 0 to 1, for the elapsed fraction of the time from begin to end."""

    @property
    def renewals(self) -> int:
        """The number of renewals of the mask."""
        return -(-(self.end - self.begin) // self.every) + 1

    def is_due(self, step: Int32[Array, ""]) -> Bool[Array, ""]:
        """Return whether the mask is renewed at an update; ``step`` may be traced."""
        since = step - self.begin
        regular = (since >= 0) & (step < self.end) & (since % self.every == 0)
        return regular | (step == self.end)

    def renewal(self, step: Int32[Array, ""]) -> Int32[Array, ""]:
        """Return which renewal was the last up to an update, from 0; 0 before the first, too."""
        since = jnp.clip(step - self.begin, 0, self.end - self.begin)
        last = jnp.where(step >= self.end, self.renewals - 1, since // self.every)
        return last.astype(jnp.int32)

    def steps(self) -> list[int]:
        """Return the numbers of all updates that renew the mask."""
        return [*range(self.begin, self.end, self.every), self.end]

    def progresses(self) -> list[Fraction]:
        """Return the exact progress at each renewal."""
        length = self.end - self.begin
        elapsed = [Fraction(step - self.begin, length) if length else 1 for step in self.steps()]
        return [Fraction(self.ramp(Fraction(fraction))) for fraction in elapsed]

    def progress(self, step: Int32[Array, ""]) -> Float32[Array, ""]:
        """Return the progress after an update as a float32 scalar; ``step`` may be traced."""
        step = jnp.asarray(step, jnp.int32)
        table = jnp.asarray(np.asarray(self.progresses(), np.float64), jnp.float32)
        return jnp.where(step < self.begin, jnp.zeros((), jnp.float32), table[self.renewal(step)])


def one_shot(step: int = 0) -> PruningSchedule:
    """Prune once, to the final sparsity.

    Args:
      step: the number of the update that prunes, counted from 0.

    Returns:
      A `PruningSchedule`.

    Raises:
      TypeError: ``step`` is not an integer.
      ValueError: ``step`` is negative.

    Example:
      >>> from sparsejax.transforms import magnitude_pruning, one_shot
      >>> method = magnitude_pruning(0.9, one_shot(1000))
    """
    step = _checks.python_integer("step", step, 0)
    return PruningSchedule(step, step, 1, _at_once)


def polynomial(begin: int, end: int, every: int = 1, power: int = 3) -> PruningSchedule:
    r"""Prune gradually, by a polynomial that is cubic by default.

    .. math:: s_t = s \Bigl(1 - \bigl(1 - \mathrm{clip}
              \bigl(\tfrac{t - t_0}{t_1 - t_0}, 0, 1\bigr)\bigr)^3\Bigr)

    The mask is renewed at update t0, where the sparsity still is 0, then every ``every`` updates,
    and at t1, where it is s. So it is s in the end even if ``every`` does not divide t1 - t0.

    Args:
      begin: t0, the number of the first update of the mask, counted from 0.
      end: t1, the number of the last update of the mask, an integer >= ``begin``.
      every: the number of updates from one mask to the next, an integer >= 1.
      power: the exponent, an integer >= 1. With 1 the sparsity grows linearly.

    Returns:
      A `PruningSchedule`.

    Raises:
      TypeError: an argument is not an integer.
      ValueError: ``begin``, ``every`` or ``power`` is out of range, the schedule ends before it
        begins, or it renews the mask more than a million times.

    References:
      Zhu and Gupta, To prune, or not to prune: exploring the efficacy of pruning for model
      compression, arXiv:1710.01878, 2017.

    Example:
      >>> from sparsejax.transforms import magnitude_pruning, polynomial
      >>> method = magnitude_pruning(0.9, polynomial(1_000, 20_000, every=100))
    """
    power = _checks.python_integer("power", power, 1)
    return periodic(begin, end, every, lambda elapsed: 1 - (1 - elapsed) ** power)


def periodic(
    begin: int, end: int, every: int, ramp: Callable[[Fraction], Fraction]
) -> PruningSchedule:
    """Return a schedule after checking its numbers.

    Raises:
      TypeError: an argument is not an integer.
      ValueError: ``begin`` or ``every`` is out of range, the schedule ends before it begins, or it
        renews the mask more than a million times.
    """
    begin = _checks.python_integer("begin", begin, 0)
    every = _checks.python_integer("every", every, 1)
    if _checks.python_integer("end", end, 0) < begin:
        raise ValueError(f"end must be an integer >= begin; got begin {begin} and end {end}")
    schedule = PruningSchedule(begin, int(end), every, ramp)
    if schedule.renewals > _MOST_UPDATES:
        raise ValueError(
            f"every must be such that the mask is renewed at most {_MOST_UPDATES} times; it is "
            f"{schedule.renewals} times with every={every}"
        )
    return schedule


def _at_once(elapsed: Fraction) -> Fraction:
    del elapsed
    return Fraction(1)
