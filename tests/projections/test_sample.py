import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.projections import _sample, project_l0_ball
from sparsejax.projections._keys import key_format
from sparsejax.projections._sample import sampled_thresholds
from sparsejax.projections._shards import Layout
from tests.projections.forms import sample_from
from tests.reference import as_float64, equations, shard, top_kappa

SHAPES = [(1000, 300), (3, 3, 64, 128), (50_000,), (7, 11)]
whole = lambda leaves: [Layout(((),) * leaf.ndim) for leaf in leaves]  # noqa: E731


@pytest.mark.long
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("share", [0.001, 0.02, 0.5, 0.99])
@pytest.mark.parametrize("gathered", [False, True])
def test_the_thresholds_surround_the_wanted_one(dtype, share, gathered, monkeypatch):
    number = 14 if gathered else 6
    if gathered:
        monkeypatch.setattr(_sample, "automatic_shards", lambda leaf: 1)
    leaves = [jax.random.normal(jax.random.key(i), s, dtype) for i, s in enumerate(SHAPES)]
    total = sum(leaf.size for leaf in leaves)
    kappa = jnp.asarray(int(share * total), jnp.float32)
    keys = key_format(leaves)
    guesses = sampled_thresholds(leaves, whole(leaves), keys, kappa, total, number)
    guesses = [float(keys.magnitude(guess)) for guess in guesses]
    assert guesses == sorted(guesses)
    magnitudes = np.abs(as_float64(leaves))
    at_lowest, above_highest = (magnitudes >= guesses[0]).sum(), (magnitudes > guesses[-1]).sum()
    assert at_lowest >= kappa >= above_highest
    assert at_lowest - above_highest < 0.1 * total + 4096


@pytest.mark.long
@pytest.mark.parametrize("kappa", [1, 4000, 100_000])
@pytest.mark.parametrize("kind", ["normal", "rounded", "sorted", "rows"])
def test_a_sample_never_changes_the_result(kappa, kind, monkeypatch):
    """Also where it misleads: entries that grow along an axis, or rows of different scales."""
    sample_from(0, monkeypatch)
    leaves = [jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate(SHAPES)]
    change = {
        "normal": lambda leaf: leaf,
        "rounded": lambda leaf: jnp.round(3 * leaf),
        "sorted": lambda leaf: jnp.sort(leaf.ravel()).reshape(leaf.shape),
        "rows": lambda leaf: leaf * (jnp.arange(leaf.shape[-1]) % 16 == 0),
    }[kind]
    leaves = [change(leaf) for leaf in leaves]
    everything = lambda path, leaf: True  # noqa: E731
    result = jax.jit(lambda tree, kappa: project_l0_ball(tree, kappa, everything))(leaves, kappa)
    np.testing.assert_array_equal(as_float64(result), top_kappa(leaves, kappa))


def test_sampling_a_sharded_leaf_moves_no_data():
    leaf = shard(jnp.zeros((800, 640)), "a", "b")
    compiled = (
        jax.jit(
            lambda leaf, kappa: sampled_thresholds(
                [leaf], whole([leaf]), key_format([leaf]), kappa, leaf.size, 6
            )
        )
        .lower(leaf, jnp.asarray(5000.0))
        .compile()
    )
    text = compiled.as_text()
    assert "all-reduce" in text
    assert not any(op in text for op in ("all-gather", "all-to-all", "collective-permute"))


def test_an_empty_leaf_beside_large_ones(monkeypatch):
    sample_from(0, monkeypatch)
    leaves = [jnp.zeros((0, 4)), jax.random.normal(jax.random.key(0), (200, 100))]
    result = jax.jit(lambda tree, kappa: project_l0_ball(tree, kappa))(leaves, 700)
    assert result[0].shape == (0, 4)
    np.testing.assert_array_equal(as_float64(result), top_kappa(leaves, 700))


def test_leaves_of_one_shape_are_sampled_in_two_ways_at_most(monkeypatch):
    monkeypatch.setattr(_sample, "automatic_shards", lambda leaf: 1)
    leaves = [jax.ShapeDtypeStruct(s, jnp.float32) for s in [(300, 7), (11,), (999,)] * 20]
    keys = key_format(leaves)

    def sample(leaves):
        return [sample for sample, *_ in _sample._samples(leaves, whole(leaves), keys)]

    jaxpr = jax.make_jaxpr(sample)(leaves)
    total = sum(leaf.size for leaf in leaves)
    assert [out.aval.shape for out in jaxpr.jaxpr.outvars] == [(-(-total // 257),)]
    slices = [equation for equation in equations(jaxpr.jaxpr) if equation.primitive.name == "slice"]
    ways = {(e.invars[0].aval.size, e.params["start_indices"], e.params["limit_indices"])
            for e in slices}  # fmt: skip
    assert len(ways) <= 5  # of the leaves of eleven entries some have one sample, the others none
