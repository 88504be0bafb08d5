import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.projections import project_l1_ball
from tests.reference import as_float64, l1_ball, primitives, shard

everything = lambda path, leaf: True  # noqa: E731
project = jax.jit(project_l1_ball, static_argnames="where")


def weights(dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 2)
    return {
        "a": jax.random.normal(keys[0], (60, 50), dtype),
        "b": 5 * jax.random.laplace(keys[1], (20, 30)).astype(dtype),
    }


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("radius", [0.0, 0.5, 30.0, 2000.0, 1e6])
def test_matches_sorting_in_float64(dtype, radius):
    tree = weights(dtype)
    for result in (project(tree, radius), project_l1_ball(tree, radius)):
        expected = l1_ball(tree.values(), radius)
        tolerance = max(float(jnp.finfo(dtype).eps), 2e-6)
        np.testing.assert_allclose(
            as_float64(result.values()), expected, rtol=tolerance, atol=tolerance
        )
        assert result["a"].dtype == dtype


def test_a_tree_inside_the_ball_is_returned_as_it_is():
    tree = weights()
    np.testing.assert_array_equal(
        as_float64(project(tree, 1e6).values()), as_float64(tree.values())
    )


def test_ties_and_a_single_survivor():
    np.testing.assert_allclose(project(jnp.full((2, 2), 3.0), 2.0), np.full((2, 2), 0.5))
    np.testing.assert_allclose(project(jnp.array([[5.0, 1, 1]]), 1.0), [[1, 0, 0]])


def test_a_million_weights_keep_the_norm():
    w = jax.random.normal(jax.random.key(5), (1000, 1000))
    result = np.asarray(project(w, 1234.5), np.float64)
    assert abs(np.abs(result).sum() - 1234.5) < 1e-5 * 1234.5


def test_gradients_match_finite_differences():
    w = jax.random.normal(jax.random.key(2), (4, 5))
    weigh = jax.random.normal(jax.random.key(3), (4, 5))
    value = lambda w, r: (project_l1_ball(w, r) * weigh).sum()  # noqa: E731
    to_weights, to_radius = jax.jit(jax.grad(value, argnums=(0, 1)))(w, 3.0)
    with jax.enable_x64(True):
        w, weigh = jnp.asarray(w, jnp.float64), jnp.asarray(weigh, jnp.float64)
        step = 1e-6
        for index in np.ndindex(4, 5):
            bump = jnp.zeros((4, 5)).at[index].set(step)
            slope = (value(w + bump, 3.0) - value(w - bump, 3.0)) / (2 * step)
            np.testing.assert_allclose(to_weights[index], slope, atol=1e-5)
        slope = (value(w, 3.0 + step) - value(w, 3.0 - step)) / (2 * step)
        np.testing.assert_allclose(to_radius, slope, atol=1e-5)


def test_vmap_sharding_and_no_sort():
    stacked = jax.random.normal(jax.random.key(4), (3, 16, 8))
    radii = jnp.array([0.0, 5.0, 1e4])
    together = jax.jit(jax.vmap(project_l1_ball))(stacked, radii)
    for member in range(3):
        expected = l1_ball([stacked[member]], float(radii[member]))
        np.testing.assert_allclose(together[member].ravel(), expected, atol=2e-6)
        sharded = project(shard(stacked[member], "a", "b"), radii[member])
        np.testing.assert_allclose(sharded.ravel(), expected, atol=2e-6)
    used = primitives(jax.make_jaxpr(project_l1_ball)(stacked, 1.0).jaxpr)
    assert "while" in used
    assert not [name for name in used if "sort" in name or "callback" in name]


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_nan_and_infinity_poison_under_jit(bad):
    w = jnp.ones((3, 3)).at[0, 0].set(bad)
    assert jnp.isnan(project(w, 1.0)).all()


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="radius must be a number >= 0; got -1"):
        project_l1_ball(jnp.ones((2, 2)), -1.0)
    with pytest.raises(ValueError, match="tree holds NaN in 4 of the 4 entries"):
        project_l1_ball(jnp.full((2, 2), jnp.nan), 1.0)
    with pytest.raises(ValueError, match="chooses none"):
        project_l1_ball(jnp.ones(2), 1.0)
    assert project_l1_ball({}, 1.0) == {}
    np.testing.assert_array_equal(project_l1_ball(jnp.ones(4), 1.0, everything), np.full(4, 0.25))
