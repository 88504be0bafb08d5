import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsejax.projections._search import THRESHOLDS, Bracket, search

END = 1 << 20


@jax.jit
def find(keys, wanted, first):
    def count(thresholds):
        return [(keys >= threshold).sum(dtype=jnp.int32) for threshold in thresholds]

    zero = jnp.asarray(0, jnp.int32)
    bracket = Bracket(zero, zero + END, zero + keys.size, zero)
    return search(count, wanted, bracket, 1 << 16, [first[i] for i in range(THRESHOLDS)])


@settings(max_examples=200, deadline=None)
@given(
    keys=st.lists(st.integers(0, 50) | st.integers(0, END - 1), min_size=30, max_size=30),
    wanted=st.integers(1, 30),
    first=st.lists(st.integers(0, END), min_size=THRESHOLDS, max_size=THRESHOLDS),
)
def test_finds_the_wanted_key_whatever_the_first_thresholds(keys, wanted, first):
    cut, beyond = find(jnp.asarray(keys, jnp.int32), wanted, jnp.asarray(first, jnp.int32))
    low, high, reached, above = map(int, cut)
    keys = np.asarray(keys)
    assert reached == (keys >= low).sum() >= wanted
    if reached != wanted:  # a tie: the bracket holds the wanted key alone
        assert low == np.sort(keys)[-wanted] == high - 1
        assert above == (keys >= high).sum() < wanted
    assert beyond == (keys >= first[-1]).sum()


@pytest.mark.long
@pytest.mark.parametrize(("kind", "most"), [("even", 6), ("lognormal", 7), ("lumps", 11)])
@pytest.mark.parametrize("wanted", [1, 10, 5000, 49_990])
def test_few_passes_are_needed(kind, most, wanted):
    """An even split in eight takes seven; lumps of equal keys mislead, so every other is even."""
    rng = np.random.default_rng(0)
    values = {
        "even": rng.integers(0, END, 50_000),
        "lumps": rng.integers(0, 300, 50_000) ** 2,
        "lognormal": np.minimum(np.exp(rng.normal(8, 1.5, 50_000)), END - 1),
    }[kind]
    keys = jnp.asarray(values, jnp.int32)
    zero = jnp.asarray(0, jnp.int32)
    passes = []

    def count(thresholds):
        jax.debug.callback(lambda: passes.append(1))
        return [(keys >= threshold).sum(dtype=jnp.int32) for threshold in thresholds]

    bracket = Bracket(zero, zero + END, zero + keys.size, zero)
    jax.block_until_ready(search(count, jnp.asarray(wanted), bracket, 1 << 16))
    jax.effects_barrier()
    assert len(passes) <= most


def test_a_finished_bracket_is_left_alone():
    zero = jnp.asarray(0, jnp.int32)
    bracket = Bracket(zero, zero + 9, zero + 4, zero)
    cut, beyond = search(lambda t: [zero + 99] * THRESHOLDS, zero + 4, bracket, 10)
    assert [int(x) for x in cut] == [0, 9, 4, 0]
    assert beyond == -1
