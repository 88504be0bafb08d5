from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.transforms import ac_dc, one_shot, polynomial, rigl


def due(schedule, last=40):
    return np.flatnonzero(jax.jit(jax.vmap(schedule.is_due))(jnp.arange(last))).tolist()


@pytest.mark.parametrize(
    ("begin", "end", "every", "steps"),
    [
        (3, 15, 4, [3, 7, 11, 15]),
        (3, 14, 4, [3, 7, 11, 14]),
        (0, 2, 1, [0, 1, 2]),
        (5, 5, 3, [5]),
        (5, 6, 30, [5, 6]),
    ],
)
def test_masks_are_renewed_between_two_steps(begin, end, every, steps):
    schedule = polynomial(begin, end, every)
    assert due(schedule) == schedule.steps() == steps
    assert schedule.renewals == len(steps)
    renewal = jax.jit(jax.vmap(schedule.renewal))(jnp.arange(40))
    for step in range(40):
        assert renewal[step] == max(sum(s <= step for s in steps) - 1, 0)


def test_the_cubic_at_its_edges():
    schedule = polynomial(10, 20, every=5)
    assert schedule.progresses() == [0, Fraction(7, 8), 1]
    progress = [float(schedule.progress(step)) for step in (0, 9, 10, 14, 15, 19, 20, 21, 10**6)]
    assert progress == [0, 0, 0, 0, 0.875, 0.875, 1, 1, 1]


@pytest.mark.parametrize("power", [1, 2, 3])
def test_the_polynomial_against_its_equation(power):
    schedule = polynomial(2, 31, every=3, power=power)
    for step, progress in zip(schedule.steps(), schedule.progresses(), strict=True):
        assert progress == 1 - (1 - Fraction(step - 2, 29)) ** power
        assert float(schedule.progress(step)) == pytest.approx(float(progress), rel=1e-6)


def test_one_shot():
    schedule = one_shot(7)
    assert due(schedule) == [7]
    assert [float(schedule.progress(step)) for step in (6, 7, 8)] == [0, 1, 1]


def test_phases_alternate_and_end_compressed():
    method = ac_dc(0.5, end=30, compressed_steps=4, decompressed_steps=3, warmup=5)
    # compressed from 5, 12, 19, 26, and dense from 9, 16, 23; the phase from 26 on goes on to 30
    assert due(method) == [5, 9, 12, 16, 19, 23, 26]
    assert due(ac_dc(0.5, 30, 3, 4)) == [0, 3, 7, 10, 14, 17, 21, 24, 28]
    assert due(ac_dc(0.5, 25, 3, 4)) == [0, 3, 7, 10, 14, 17, 21, 24, 25]


def test_dynamic_training_begins_after_the_first_period():
    assert due(rigl(0.9, end=35, every=10)) == [10, 20, 30, 35]
    assert due(rigl(0.9, end=35, every=10, begin=2)) == [2, 12, 22, 32, 35]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: polynomial(10, 9), "end must be an integer >= begin; got begin 10 and end 9"),
        (lambda: polynomial(-1, 9), "begin must be an integer >= 0; got -1"),
        (lambda: polynomial(0, 9, every=0), "every must be an integer >= 1; got 0"),
        (lambda: polynomial(0, 9, power=0), "power must be an integer >= 1; got 0"),
        (lambda: polynomial(0, 2 * 10**6), "renewed at most 1000000 times; it is 2000001 times"),
        (lambda: one_shot(-1), "step must be an integer >= 0"),
        (lambda: rigl(0.9, end=50), "end must be an integer >= begin; got begin 100 and end 50"),
        (lambda: ac_dc(0.9, 4, 1, 1, warmup=5), "end must be an integer >= warmup; got warmup 5"),
    ],
)
def test_bad_schedules_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_steps_are_whole():
    with pytest.raises(TypeError, match="begin must be an integer >= 0; got 0.5"):
        polynomial(0.5, 9)
