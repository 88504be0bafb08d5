"""Counts in two words: the arithmetic, and trees whose counts do not fit in one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sparsejax.projections import _words, project_l0_ball
from sparsejax.projections._words import as_float, count_words, excess
from tests.reference import as_float64, top_kappa

everything = lambda path, leaf: True  # noqa: E731
HUGE = 2**46


def pair(number):
    return jnp.asarray([number >> 32, number & 0xFFFFFFFF], jnp.uint32)


def value(words):
    high, low = (int(word) for word in words)
    return (high << 16) + low


def test_the_excess_saturates_and_is_exact_otherwise():
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 2**31, (300, 9), dtype=np.int32)
    counts[:100] = counts[0]
    wanted = counts.sum(1, dtype=np.int64) + rng.choice([0, -1, 1, 70_000, -(2**31), 2**33], 300)
    words = jnp.stack([wanted >> 16, wanted & 0xFFFF], 1).astype(jnp.int32)
    found = jax.vmap(excess)(counts, words)
    limits = np.iinfo(np.int32)
    exact = counts.sum(1, dtype=np.int64) - wanted
    np.testing.assert_array_equal(found, np.clip(exact, limits.min, limits.max))


@pytest.mark.parametrize("number", [0, 1, 2**16, 2**31, 2**32 - 1, 2**32 + 5, HUGE])
def test_a_count_is_an_integer_or_a_pair(number):
    given = [number, pair(number)] + ([jnp.asarray(number, jnp.uint32)] if number < 2**32 else [])
    for count in given:
        assert value(count_words("kappa", count, HUGE)) == number
    assert value(jax.jit(lambda p: count_words("kappa", p, HUGE))(pair(number))) == number
    assert value(jax.jit(lambda p: count_words("kappa", p, 2**31 + 7))(pair(number))) == min(
        number, 2**31 + 7
    )
    np.testing.assert_allclose(as_float(count_words("kappa", number, HUGE)), number, rtol=1e-6)


def test_a_bad_count_is_named():
    for bad in (HUGE + 1, -1, pair(HUGE + 1)):
        with pytest.raises(ValueError, match=f"kappa must be an integer from 0 to {HUGE}; got"):
            count_words("kappa", bad, HUGE)


@pytest.mark.parametrize("kind", ["normal", "tied"])
def test_a_search_with_two_words_gives_the_same_bits(kind, monkeypatch):
    monkeypatch.setattr(_words, "_ONE_WORD", 0)
    leaves = [jax.random.normal(jax.random.key(i), s) for i, s in enumerate([(30, 4), (50,)])]
    if kind == "tied":
        leaves = [jnp.round(2 * leaf) for leaf in leaves]
    project = jax.jit(lambda tree, kappa: project_l0_ball(tree, kappa, everything))
    for kappa in (0, 1, 60, 119, 170):
        for given in (kappa, pair(kappa)):
            np.testing.assert_array_equal(
                as_float64(project(leaves, given)), top_kappa(leaves, kappa)
            )


def test_eight_billion_sharded_weights_compile_without_a_gather():
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("a", "b"))
    sharding = NamedSharding(mesh, PartitionSpec("a", "b"))
    leaf = jax.ShapeDtypeStruct((2**15, 2**15), jnp.bfloat16, sharding=sharding)
    tree = [leaf] * 8
    project = jax.jit(lambda tree: project_l0_ball(tree, 5_000_000_000, everything))
    compiled = project.lower(tree).compile()
    text = compiled.as_text()
    assert "all-reduce" in text
    assert not any(op in text for op in ("all-gather", "all-to-all", "collective-permute"))
    memory = compiled.memory_analysis()
    assert memory.temp_size_in_bytes < 0.01 * memory.argument_size_in_bytes
    assert [out.shape for out in jax.eval_shape(project, tree)] == [leaf.shape] * 8


def test_a_leaf_that_is_too_large_is_named():
    tree = {"kernel": jax.ShapeDtypeStruct((2**16, 2**15), jnp.float32)}
    with pytest.raises(ValueError, match=r"\['kernel'\] has 2147483648. Split it"):
        jax.eval_shape(lambda tree: project_l0_ball(tree, 5), tree)
