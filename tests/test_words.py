"""The arithmetic of counts in two words, against Python's integers."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax import _words
from sparsejax._words import (
    as_count,
    as_float,
    count_words,
    excess,
    less,
    table,
    total,
    without_fraction,
    words_of,
)

HUGE = 2**46
NUMBERS = [0, 1, 2**16, 2**31, 2**32 - 1, 2**32 + 5, HUGE]


def pair(number):
    return jnp.asarray([number >> 32, number & 0xFFFFFFFF], jnp.uint32)


def value(words):
    high, low = (int(word) for word in words)
    return (high << 16) + low


def words(number):
    return jnp.asarray([number >> 16, number & 0xFFFF], jnp.int32)


def test_the_excess_saturates_and_is_exact_otherwise():
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 2**31, (300, 9), dtype=np.int32)
    counts[:100] = counts[0]
    wanted = counts.sum(1, dtype=np.int64) + rng.choice([0, -1, 1, 70_000, -(2**31), 2**33], 300)
    found = jax.vmap(excess)(counts, words(wanted).T)
    limits = np.iinfo(np.int32)
    exact = counts.sum(1, dtype=np.int64) - wanted
    np.testing.assert_array_equal(found, np.clip(exact, limits.min, limits.max))


@pytest.mark.parametrize("number", NUMBERS)
def test_a_count_is_an_integer_or_a_pair(number):
    given = [number, pair(number)] + ([jnp.asarray(number, jnp.uint32)] if number < 2**32 else [])
    for count in given:
        assert value(count_words("kappa", count, HUGE)) == number
        assert value(count_words("kappa", count)) == number
    for count in given[1:]:
        traced = jax.jit(lambda p: (count_words("kappa", p, HUGE), count_words("kappa", p)))(count)
        assert [value(found) for found in traced] == [number] * 2
        limited = jax.jit(lambda p: count_words("kappa", p, 2**31 + 7))(count)
        assert value(limited) == min(number, 2**31 + 7)
    np.testing.assert_allclose(as_float(count_words("kappa", number, HUGE)), number, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.uint8, jnp.uint32])
def test_a_traced_count_of_any_dtype_is_clipped_and_does_not_wrap(dtype):
    most = int(jnp.iinfo(dtype).max)
    for limit, wanted in ((50, 50), (10**6, min(most, 10**6)), (2**31 - 1, min(most, 2**31 - 1))):
        found = jax.jit(lambda n, limit=limit: count_words("kappa", n, limit))(dtype(most))
        assert int(found) == wanted


def test_a_bad_count_is_named():
    for bad in (HUGE + 1, -1, pair(HUGE + 1)):
        with pytest.raises(ValueError, match=f"kappa must be an integer from 0 to {HUGE}; got"):
            count_words("kappa", bad, HUGE)
    with pytest.raises(ValueError, match="kappa must be an integer >= 0; got -1"):
        count_words("kappa", -1)


def test_sums_and_both_forms():
    rng = np.random.default_rng(0)
    for leaves in (0, 1, 5, 300):
        counts = rng.integers(0, 2**31, leaves, dtype=np.int32)
        exact = int(counts.sum(dtype=np.int64))
        found = total(list(counts))
        assert value(found) == exact
        np.testing.assert_array_equal(as_count(found, 2**31), pair(exact))
        np.testing.assert_array_equal(words_of(as_count(found, 2**31)), found)
        if exact < 2**31:
            count = as_count(found, 2**31 - 1)
            assert count.shape == ()
            assert count.dtype == jnp.int32
            assert int(count) == exact
            np.testing.assert_array_equal(words_of(count), found)


def test_a_fraction_is_pruned_down_to_a_least_number():
    for number in (0, 1, 7, 2**24 + 1, 2**31 - 1, 5_000_000_019, HUGE):
        for fraction in map(np.float32, (0.2, 0.5, 0.999)):
            for least in (0, 3, 4_000_000_000):
                leaving = math.ceil(fraction * np.float32(number))
                exact = max(number - leaving, min(least, number))
                found = without_fraction(words(number), jnp.asarray(fraction), words(least))
                assert value(found) == exact


def test_an_order_and_a_table():
    for left in NUMBERS:
        for right in NUMBERS:
            assert bool(less(words(left), words(right))) == (left < right)
    assert table([[1, 2], [3, 2**31 - 1]]).dtype == np.int32
    rows = [[1, 2**33 + 5], [2**31, 0]]
    found = table(rows)
    assert found.dtype == np.uint32
    assert found.shape == (2, 2, 2)
    assert [[(int(h) << 32) | int(low) for h, low in row] for row in found] == rows


def test_the_limit_of_a_leaf_is_named():
    _words.check_sizes(["a"], [2**31 - 1])
    with pytest.raises(ValueError, match="at most 2147483647 entries; b has 2147483648. Split"):
        _words.check_sizes(["a", "b"], [5, 2**31])
