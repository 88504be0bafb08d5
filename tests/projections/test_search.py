import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsejax.projections._search import Bracket, search

END = 1 << 20


def searched(keys, wanted, number, first=None, count=None):
    """Search the keys [n, m] of n leaves."""

    def plain(thresholds):
        return (keys >= thresholds[:, None, None]).sum(2, dtype=jnp.int32)

    zero = jnp.asarray(0, jnp.int32)
    everything = jnp.full(len(keys), keys.shape[1], jnp.int32)
    bracket = Bracket(zero, zero + END, everything, everything * 0)
    excess = lambda counts: counts.sum(-1) - wanted  # noqa: E731
    return search(count or plain, excess, bracket, 1 << 16, number, first)


find = jax.jit(searched, static_argnums=2)


@settings(max_examples=200, deadline=None)
@given(
    keys=st.lists(st.integers(0, 50) | st.integers(0, END - 1), min_size=30, max_size=30),
    wanted=st.integers(1, 30),
    first=st.lists(st.integers(0, END), min_size=15, max_size=15),
    number=st.sampled_from([7, 15]),
)
def test_finds_the_wanted_key_whatever_the_first_thresholds(keys, wanted, first, number):
    leaves, first = (
        np.reshape(np.array(keys, np.int32), (3, 10)),
        np.array(first[:number], np.int32),
    )
    cut, beyond = find(leaves, wanted, number, first)
    np.testing.assert_array_equal(cut.reached, (leaves >= cut.low).sum(1))
    np.testing.assert_array_equal(cut.above, (leaves >= cut.high).sum(1))
    low, high, reached, above = int(cut.low), int(cut.high), cut.reached.sum(), cut.above.sum()
    keys = np.asarray(keys)
    assert reached == (keys >= low).sum() >= wanted
    if reached != wanted:  # a tie: the bracket holds the wanted key alone
        assert low == np.sort(keys)[-wanted] == high - 1
        assert above == (keys >= high).sum() < wanted
    np.testing.assert_array_equal(beyond, (leaves >= first[-1]).sum(1))


@pytest.mark.long
@pytest.mark.parametrize(("kind", "most"), [("even", 6), ("lognormal", 7), ("lumps", 11)])
@pytest.mark.parametrize(("number", "fewer"), [(7, 0), (15, 1)])
@pytest.mark.parametrize("wanted", [1, 10, 5000, 49_990])
def test_few_passes_are_needed(kind, most, wanted, number, fewer):
    """An even split in eight takes seven; lumps of equal keys mislead, so every other is even."""
    rng = np.random.default_rng(0)
    values = {
        "even": rng.integers(0, END, 50_000),
        "lumps": rng.integers(0, 300, 50_000) ** 2,
        "lognormal": np.minimum(np.exp(rng.normal(8, 1.5, 50_000)), END - 1),
    }[kind]
    keys = jnp.asarray(values, jnp.int32)[None]
    passes = []

    def count(thresholds):
        jax.debug.callback(lambda: passes.append(1))
        return (keys >= thresholds[:, None, None]).sum(2, dtype=jnp.int32)

    jax.block_until_ready(searched(keys, jnp.asarray(wanted), number, count=count))
    jax.effects_barrier()
    assert len(passes) <= most - fewer


def test_a_finished_bracket_is_left_alone():
    zero = jnp.asarray(0, jnp.int32)
    bracket = Bracket(zero, zero + 9, zero[None] + 4, zero[None])
    excess = lambda counts: counts.sum(-1) - 4  # noqa: E731
    cut, beyond = search(lambda t: jnp.full((7, 1), 99), excess, bracket, 10, 7)
    assert [int(np.squeeze(x)) for x in cut] == [0, 9, 4, 0]
    assert beyond == -1
