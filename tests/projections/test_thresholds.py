import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.projections import hard_threshold, soft_threshold
from tests.reference import shard

DTYPES = [jnp.float32, jnp.bfloat16, jnp.float16]
everything = lambda path, leaf: True  # noqa: E731


def weights(dtype=jnp.float32):
    return {"a": jax.random.normal(jax.random.key(0), (30, 20), dtype), "bias": jnp.ones(3, dtype)}


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("threshold", [0.0, 0.3, 2.0, np.inf])
def test_both_match_their_definitions(jit, dtype, threshold):
    tree = weights(dtype)
    run = jax.jit if jit else lambda function: function
    w = np.asarray(tree["a"]).astype(np.float64)
    hard = run(hard_threshold)(tree, threshold)
    np.testing.assert_array_equal(
        np.asarray(hard["a"]).astype(np.float64), np.where(np.abs(w) > np.float32(threshold), w, 0)
    )
    soft = run(soft_threshold)(tree, threshold)
    with np.errstate(invalid="ignore"):
        expected = np.sign(w) * np.maximum(np.abs(w) - np.float32(threshold), 0)
    tolerance = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(
        np.asarray(soft["a"]).astype(np.float64), expected, rtol=tolerance, atol=tolerance / 10
    )
    for result in (hard, soft):
        assert result["a"].dtype == dtype
        np.testing.assert_array_equal(result["bias"], tree["bias"])


def test_both_are_proximal_maps():
    """No other point of a fine grid has a lower value of the proximal objective."""
    w = jnp.linspace(-3, 3, 41)[None]
    grid = np.linspace(-4, 4, 8001)[:, None]
    distance = 0.5 * (np.asarray(w) - grid) ** 2
    t = 0.8
    for prox, penalty in (
        (hard_threshold, lambda theta: t**2 / 2 * (theta != 0)),
        (soft_threshold, lambda theta: t * np.abs(theta)),
    ):
        theta = np.asarray(prox(w, t))
        value = 0.5 * (np.asarray(w) - theta) ** 2 + penalty(theta)
        assert (value <= (distance + penalty(grid)).min(axis=0) + 1e-6).all()


def test_subnormals_are_told_apart_from_each_other_and_from_zero():
    w = jnp.array([[2e-45, 1e-40, -3e-40, 0.0]])
    kept = jax.jit(hard_threshold)(w, 1e-40)
    np.testing.assert_array_equal(np.asarray(kept) != 0, [[False, False, True, False]])
    np.testing.assert_array_equal(hard_threshold(w, 0.0), w)


def test_nan_stays_nan_and_entry_by_entry():
    w = jnp.array([[jnp.nan, 1.0, 0.1]])
    np.testing.assert_array_equal(hard_threshold(w, 0.5), [[jnp.nan, 1.0, 0.0]])
    np.testing.assert_array_equal(soft_threshold(w, 0.5), [[jnp.nan, 0.5, 0.0]])


def test_gradients():
    w = jnp.array([[3.0, -2.0, 0.5]])
    hard = jax.grad(lambda w: (hard_threshold(w, 1.0) * jnp.array([[1.0, 2, 3]])).sum())(w)
    np.testing.assert_array_equal(hard, [[1, 2, 0]])
    to_weights, to_threshold = jax.grad(
        lambda w, t: (soft_threshold(w, t) * jnp.array([[1.0, 2, 3]])).sum(), argnums=(0, 1)
    )(w, 1.0)
    np.testing.assert_array_equal(to_weights, [[1, 2, 0]])
    assert float(to_threshold) == -1 + 2


@pytest.mark.parametrize("prox", [hard_threshold, soft_threshold])
def test_vmap_and_sharding(prox):
    stacked = jax.random.normal(jax.random.key(1), (3, 8, 16))
    thresholds = jnp.array([0.1, 0.5, 1.0])
    together = jax.vmap(lambda w, t: prox(w, t))(stacked, thresholds)
    for member in range(3):
        alone = prox(stacked[member], thresholds[member])
        np.testing.assert_array_equal(together[member], alone)
        sharded = jax.jit(prox)(shard(stacked[member], "a", "b"), thresholds[member])
        np.testing.assert_array_equal(sharded, alone)


@pytest.mark.parametrize("prox", [hard_threshold, soft_threshold])
@pytest.mark.parametrize("threshold", [-0.1, np.nan, np.ones(2)])
def test_a_bad_threshold_is_named(prox, threshold):
    with pytest.raises(ValueError, match="threshold must be"):
        prox(jnp.ones((2, 2)), threshold)
    with pytest.raises(TypeError, match="only floating-point leaves"):
        prox(jnp.ones((2, 2), jnp.int32), 1.0, everything)
