"""Dynamic sparse training: a fixed number of weights, of which some are exchanged."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp

from sparsejax import _checks
from sparsejax._words import table
from sparsejax.transforms import _scores
from sparsejax.transforms._distributions import Distribution, erdos_renyi
from sparsejax.transforms._patterns import Masks
from sparsejax.transforms._schedules import PruningSchedule, periodic
from sparsejax.transforms._scores import Score
from sparsejax.transforms._sparse_method import SparseMethod, Weights, all_kept, as_key
from sparsejax.transforms._targets import AT_ONCE, Target, count_rows, make_target


def random_start(
    sparsity: Any, distribution: Distribution | None, key: Any
) -> tuple[Target, SparseMethod]:
    """Return a target, and the method that keeps a random mask.

    Raises:
      TypeError: ``sparsity`` is not a number or traced, ``distribution`` is of another type, or
        ``key`` is no key.
      ValueError: ``sparsity`` is not in [0, 1).
    """
    target = make_target(sparsity, distribution or erdos_renyi())
    if not isinstance(target.sparsity, Fraction):
        raise TypeError("sparsity must be known for training with a fixed budget; got a traced one")

    def first_mask(weights: Weights) -> Masks:
        counts = jnp.asarray(table(budget_of(target, weights)))
        scores = target.scores(None, weights)
        return target.largest(weights, scores, counts[0], all_kept(weights))

    def next_mask(weights: Weights, masks: Masks) -> Masks:
        del weights
        return masks

    return target, SparseMethod(first_mask, next_mask, None, as_key(key))


def budget_of(target: Target, weights: Weights) -> list[list[int]]:
    """Return the exact budget of each group, in one row."""
    assert isinstance(target.sparsity, Fraction)
    return count_rows(target.sparsity, target.distribution, target.layers(weights), AT_ONCE)


def drop_and_grow(
    sparsity: Any,
    begin: int | None,
    end: int,
    every: int,
    drop_fraction: float,
    distribution: Distribution | None,
    grow: Score | None,
    key: Any,
) -> SparseMethod:
    """Return a method that keeps the largest weights and grows others by a score, or by chance.

    Raises:
      TypeError: ``sparsity`` or ``drop_fraction`` is not a known number, ``begin``, ``end`` or
        ``every`` not an integer, ``distribution`` is of another type, or ``key`` is no key.
      ValueError: ``sparsity`` is not in [0, 1), ``drop_fraction`` not in (0, 1), ``begin`` or
        ``every`` out of range, or ``end < begin``.
    """
    schedule = _cosine_schedule(begin, end, every)
    target, start = random_start(sparsity, distribution, key)
    fractions = [_fraction(drop_fraction) * share for share in schedule.progresses()]

    def next_mask(weights: Weights, masks: Masks) -> Masks:
        budget = budget_of(target, weights)
        kept = jnp.asarray(table([[round(n * (1 - f)) for n in budget[0]] for f in fractions]))
        now = kept[schedule.renewal(weights.step)]
        magnitudes = target.scores(_scores.magnitude, weights)
        stay = target.largest(weights, magnitudes, now, masks)
        growing = target.scores(grow, weights)
        # Those that stay rank first: their score is infinite.
        scores = [
            jnp.where(m, jnp.asarray(jnp.inf, score.dtype), jnp.minimum(score, _finite(score)))
            for m, score in zip(stay, growing, strict=True)
        ]
        return target.largest(weights, scores, jnp.asarray(table(budget))[0], all_kept(weights))

    return start._replace(next_mask=next_mask, is_due=schedule.is_due)


def _cosine_schedule(begin: int | None, end: int, every: int) -> PruningSchedule:
    """Return a schedule whose progress is the share of the drop fraction, from 1 down to 0.

    Raises:
      TypeError: an argument is not an integer.
      ValueError: ``begin`` or ``every`` is out of range, or the schedule ends before it begins.
    """
    every = _checks.python_integer("every", every, 1)
    begin = every if begin is None else _checks.python_integer("begin", begin, 0)
    schedule = periodic(begin, end, every, lambda elapsed: elapsed)
    last = max(schedule.end, 1)

    def share(elapsed: Fraction) -> Fraction:
        step = begin + elapsed * (schedule.end - begin)
        return Fraction((1 + math.cos(math.pi * float(step / last))) / 2)

    return schedule._replace(ramp=share)


def _fraction(drop_fraction: Any) -> Fraction:
    number = _checks.known(drop_fraction)
    if number is None:
        raise TypeError("drop_fraction must be known; got a traced one")
    if number.shape != () or number.dtype.kind not in "iuf" or not 0 < number < 1:
        raise ValueError(f"drop_fraction must be a number in (0, 1); got {drop_fraction!r}")
    return Fraction(str(number[()]))


def _finite(score: jax.Array) -> Any:
    """Return a number below infinity that is as large as it need be."""
    return jnp.asarray(jnp.finfo(score.dtype).max / 2, score.dtype)
