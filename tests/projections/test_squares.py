from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.projections import _squares
from sparsejax.projections._keys import key_format
from sparsejax.projections._squares import divided, ranked, squared_norms
from tests.reference import exact_square

pytestmark = pytest.mark.optimized  # what users compile must be exact to the last bit

AWKWARD = [0, 1, 1 + 2**-23, 3.25, 2**-10, 1e-40, 1e-45, 1e30, 3e38, 2**-60, 5e-39]


def values_of(norms, ranks):
    """The numbers that norms stand for."""
    digits = np.stack([np.asarray(d) for d in norms.digits])
    assert (digits >= 0).all()
    assert (digits < 4096).all()
    bias = 1 - (jnp.finfo(ranks.dtype).maxexp - 1)
    numbers = []
    for place, column in zip(
        np.asarray(norms.place).ravel(), digits.reshape(len(digits), -1).T, strict=True
    ):
        places = range(int(place) + 2, int(place) + 2 - len(column), -1)
        total = sum(Fraction(4096) ** p * int(d) for p, d in zip(places, column, strict=True))
        numbers.append(total * Fraction(2) ** (2 * bias))
    return numbers


def tuples(words):
    """Of each group its words, to be compared as Python compares tuples."""
    return list(zip(*(np.asarray(word).tolist() for word in words), strict=True))


@pytest.mark.long
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_nothing_is_lost_of_entries_near_the_largest(dtype):
    rng = np.random.default_rng(0)
    entries = jnp.asarray(rng.normal(size=(7, 5, 3)) * 2.0 ** rng.integers(-4, 5, (7, 1, 1)), dtype)
    entries = jnp.where(jnp.abs(entries) < 2**-8, 1, entries)
    ranks = key_format([entries, jnp.zeros(())])
    found = values_of(squared_norms(entries, (1, 2), frozenset(), ranks), ranks)
    assert found == [exact_square(group) for group in entries]


@pytest.mark.long
@pytest.mark.parametrize("pair", [(1, 1), (1, 3), (3, 4)])
def test_numbers_of_all_sizes_are_ranked_as_their_fractions_are(pair):
    rng = np.random.default_rng(1)
    entries = np.float32(rng.choice(AWKWARD, (40, 4)))
    entries[20:] = rng.permuted(entries[:20], axis=1)
    ranks = key_format([jnp.asarray(entries)])
    costs = [pair[0]] * 20 + [pair[1]] * 20
    words = []
    for half, cost in zip((entries[:20], entries[20:]), pair, strict=True):
        norms = squared_norms(jnp.asarray(half), (1,), frozenset(), ranks)
        words += tuples(ranked(divided(norms, cost), ranks))
    expected = [exact_square(group) / cost for group, cost in zip(entries, costs, strict=True)]
    for word, number in zip(words, expected, strict=True):
        assert [word < other for other in words] == [
            number * (1 + Fraction(1, 2**47)) < other for other in expected
        ]


def test_float64_beyond_float32():
    with jax.enable_x64(True):
        entries = jnp.asarray(1 + np.arange(6.0).reshape(3, 2) * 1e-15)
        ranks = key_format([entries])
        norms = squared_norms(entries, (1,), frozenset(), ranks)
        assert values_of(norms, ranks) == [exact_square(group) for group in entries]
        words = tuples(ranked(norms, ranks))
        assert words == sorted(set(words))


def test_long_groups_do_not_overflow(monkeypatch):
    entries = jnp.full((2, 300, 2000), 1.999, jnp.float32)  # summed one dimension at a time
    ranks = key_format([entries])
    found = values_of(squared_norms(entries, (1, 2), frozenset(), ranks), ranks)
    assert found == [600_000 * exact_square(entries[0, 0, 0])] * 2
    monkeypatch.setattr(_squares, "_MOST", 2**10)
    with pytest.raises(ValueError, match=r"at most 1024 entries; dimension 2 of an array of shape"):
        squared_norms(entries, (1, 2), frozenset(), ranks)


def test_infinite_groups_tie_above_all_others():
    entries = jnp.asarray([[3e38, 3e38], [jnp.inf, 0], [jnp.inf, -jnp.inf]])
    ranks = key_format([entries])
    words = tuples(ranked(squared_norms(entries, (1,), frozenset(), ranks), ranks))
    assert words[0] < words[1] == words[2]
