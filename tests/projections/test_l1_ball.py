from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from sparsejax.projections import project_l1_ball
from tests.reference import as_float64, exact_l1_threshold, l1_ball, primitives, shard

everything = lambda path, leaf: True  # noqa: E731
project = jax.jit(project_l1_ball, static_argnames="where")


def weights(dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 2)
    return {
        "a": jax.random.normal(keys[0], (60, 50), dtype),
        "b": 5 * jax.random.laplace(keys[1], (20, 30)).astype(dtype),
    }


@pytest.mark.long
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("radius", [0.0, 0.5, 30.0, 2000.0, 1e6])
def test_matches_sorting_in_float64(dtype, radius):
    tree = weights(dtype)
    result = project(tree, radius)
    tolerance = max(float(jnp.finfo(dtype).eps), 2e-6)
    np.testing.assert_allclose(
        as_float64(result.values()), l1_ball(tree.values(), radius), rtol=tolerance, atol=tolerance
    )
    assert result["a"].dtype == dtype


SHAPES = {"a": (4, 5), "b": (7,)}
COUNT = 27


def magnitudes():
    """Entries that tie, sit on a grid, are clipped, are alone, or span many powers of two."""
    shared = st.sampled_from([0.0, 1.0, 3.0, 60000.0, 1e30, 1e-30, 0.1])
    return st.one_of(
        shared.map(lambda value: [value] * COUNT),
        st.lists(st.sampled_from([0.0, 1.0, 0.5, 3.0]), min_size=COUNT, max_size=COUNT),
        st.lists(st.integers(-127, 127).map(lambda k: k / 128), min_size=COUNT, max_size=COUNT),
        st.integers(0, 99).map(
            lambda seed: np.clip(np.random.default_rng(seed).normal(size=COUNT), -1, 1).tolist()
        ),
        st.integers(0, COUNT - 1).map(lambda place: [7.3 * (i == place) for i in range(COUNT)]),
        st.lists(
            st.floats(2.0**-20, 2.0**20, width=32) | st.just(0.0), min_size=COUNT, max_size=COUNT
        ),
    )


def radius_for(entries, choice, share):
    """A float32 radius: 0, the norm, just below it, at which an entry is at the kink, or any."""
    exact = [Fraction(float(abs(x))) for x in entries]
    norm = sum(exact)
    at = sorted(exact)[int(share * (COUNT - 1))]
    kink = sum(max(x - at, Fraction(0)) for x in exact)
    wanted = {"zero": 0, "norm": norm, "below": norm, "kink": kink, "share": share * norm}[choice]
    radius = np.float32(float(wanted))
    return np.nextafter(radius, np.float32(0)) if choice == "below" else radius


@pytest.mark.long
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@settings(max_examples=150, deadline=None)
@given(
    entries=magnitudes(),
    choice=st.sampled_from(["zero", "norm", "below", "kink", "share"]),
    share=st.floats(2.0**-60, 1),  # XLA flushes what would be left of a subnormal radius
)
def test_support_and_norm_are_those_of_exact_arithmetic(dtype, entries, choice, share):
    flat = jnp.asarray(entries, jnp.float32)
    tree = {"a": flat[:20].reshape(4, 5), "b": flat[20:].astype(dtype)}
    used = as_float64(tree.values())
    radius = radius_for(used, choice, share)
    result = as_float64(project(tree, radius, everything).values())
    tau = exact_l1_threshold(used, radius)
    expected = [max(Fraction(abs(x)) - tau, Fraction(0)) for x in used]
    np.testing.assert_array_equal(result != 0, [x > 0 for x in expected])
    np.testing.assert_array_equal(np.sign(result), np.sign(used) * (result != 0))
    own = [2.0**-24] * 20 + [float(jnp.finfo(dtype).eps) / 2] * 7
    for value, exact, eps in zip(result, expected, own, strict=True):
        assert abs(Fraction(abs(value)) - exact) <= exact * Fraction(3 * 2.0**-23 + eps)
    assert sum(Fraction(abs(x)) for x in result) <= Fraction(float(radius)) * Fraction(
        1 + 3 * 2.0**-23 + max(own)
    )


@pytest.mark.long
@pytest.mark.parametrize(
    ("w", "radius"),
    [
        (np.ones((1000, 1000)), 0.01),
        (np.full((300, 400), 60000.0), 100.0),
        (np.clip(np.random.default_rng(0).normal(size=(1000, 1000)), -1, 1), 0.005),
        (np.random.default_rng(0).normal(size=2**20), 3.0),  # one long axis: narrower digits
        (np.full((2, 3, 5, 7), 1e30), 1e32),
        (np.full((9, 9), 1e-30), 1e-33),
        (np.full((5, 5), 3e38), 3e38),  # the norm itself is infinite in float32
    ],
)
def test_the_norm_of_large_and_extreme_leaves_is_the_radius(w, radius):
    w = jnp.asarray(w, jnp.float32)
    norm = np.abs(np.asarray(project(w, radius, everything), np.float64)).sum()
    assert 1 - 2e-7 < norm / float(np.float32(radius)) < 1 + 4e-7


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16, jnp.bfloat16])
def test_subnormal_entries_and_radii_give_no_nan_and_no_excess(dtype):
    tiny = float(jnp.finfo(dtype).smallest_subnormal)
    w = jnp.full((3, 4), 3 * tiny, dtype)
    for radius in (tiny, 5 * tiny, 1e-45, 1.0):
        norm = as_float64([project(w, radius)]).sum()
        assert norm <= 36 * tiny
        assert norm <= radius + 12 * tiny


def test_sharded_leaves_give_the_same_bits():
    w = jax.random.normal(jax.random.key(8), (16, 24))
    expected = np.asarray(project(w, 30.0))
    np.testing.assert_array_equal(project(shard(w, "a", "b"), 30.0), expected)
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(AxisType.Explicit,) * 2)
    cut = jax.device_put(w, NamedSharding(mesh, PartitionSpec("x", "y")))
    with jax.set_mesh(mesh):
        result, pull = jax.vjp(lambda w: project_l1_ball(w, 30.0), cut)
        (slope,) = pull(cut)
    np.testing.assert_array_equal(result, expected)
    assert result.sharding.spec == cut.sharding.spec
    signs = np.sign(expected)
    mean = (signs * np.asarray(w)).sum() / np.abs(signs).sum()
    np.testing.assert_allclose(slope, np.abs(signs) * (w - signs * mean), atol=1e-6)


def test_under_strict_promotion_x64_and_debug_nans():
    w = {"a": jnp.arange(6.0).reshape(2, 3), "b": jnp.ones((2, 2), jnp.bfloat16)}
    expected = project(w, 4.0)
    with jax.numpy_dtype_promotion("strict"), jax.debug_nans(True):
        found = project_l1_ball(w, 4.0)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    with jax.enable_x64(True):
        wide = jnp.asarray([[3.0, 1.0, 1.0 + 2.0**-50]])
        radius = 2.0 - 2.0**-50  # at which the threshold is 1 + 2^-50
        assert wide.dtype == jnp.float64
        np.testing.assert_array_equal(project_l1_ball(wide, radius), [[radius, 0, 0]])
        assert project_l1_ball(jnp.ones((2, 2), jnp.float32), 1.0).dtype == jnp.float32


def test_second_derivatives_are_those_of_the_closed_form():
    w = jnp.array([[3.0, -2.0, 0.5, 4.0]])

    def closed(w, r):  # three entries are left
        large = jnp.abs(w) > 1
        tau = (jnp.abs(w).sum(where=large) - r) / 3
        return jnp.sign(w) * jnp.maximum(jnp.abs(w) - tau, 0)

    def cubes(project):
        return lambda w, r: (project(w, r) ** 3).sum()

    found = jax.jacfwd(jax.grad(cubes(project_l1_ball)))(w, 4.0)
    expected = jax.jacfwd(jax.grad(cubes(closed)))(w, 4.0)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


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
    with pytest.raises(ValueError, match="it has NaN or infinity in 4 of the 4 entries"):
        project_l1_ball(jnp.full((2, 2), jnp.nan), 1.0)
    with pytest.raises(ValueError, match="chooses none"):
        project_l1_ball(jnp.ones(2), 1.0)
    assert project_l1_ball({}, 1.0) == {}
    np.testing.assert_array_equal(project_l1_ball(jnp.ones(4), 1.0, everything), np.full(4, 0.25))
