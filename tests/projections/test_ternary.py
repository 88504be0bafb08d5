import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sparsejax.projections import project_binary, project_ternary


def everything(path, leaf):
    return True


def best_ternary(w):
    """The least squared error over all supports of the largest magnitudes, in float64."""
    size = np.sort(np.abs(np.asarray(w, np.float64)).ravel())[::-1]
    k = np.arange(1, size.size + 1)
    return (size**2).sum() - (np.cumsum(size) ** 2 / k).max()


def error(w, theta):
    return ((np.asarray(w, np.float64) - np.asarray(theta, np.float64)) ** 2).sum()


scaled_ternary = jax.jit(lambda w: project_ternary(w, everything, scaled=True))
FLOATS = st.floats(-100, 100, width=32)


@settings(max_examples=60, deadline=None)
@given(arrays.arrays(np.float32, 12, elements=FLOATS))
def test_ternary_is_the_best_of_all_supports(w):
    theta = np.asarray(scaled_ternary(w))
    assert np.unique(np.abs(theta[theta != 0])).size <= 1
    scale = max(1e-30, (w.astype(np.float64) ** 2).sum())
    assert error(w, theta) <= best_ternary(w) + 2e-5 * scale


@pytest.mark.parametrize("shape", [(20_000,), (300, 40)])
@pytest.mark.parametrize("kind", ["normal", "laplace", "uniform", "sparse", "few values"])
def test_ternary_of_many_entries(kind, shape):
    rng = np.random.default_rng(0)
    w = {
        "normal": lambda: rng.normal(size=shape),
        "laplace": lambda: rng.laplace(size=shape),
        "uniform": lambda: rng.uniform(-1, 1, size=shape),
        "sparse": lambda: rng.normal(size=shape) ** 9,
        "few values": lambda: rng.choice([0.1, -0.2, 0.35, 1.7], size=shape),
    }[kind]().astype(np.float32)
    found = error(w, scaled_ternary(w))
    assert found <= best_ternary(w) * (1 + 1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_ternary_and_binary_keep_dtypes_and_have_few_values(dtype):
    w = {"a": jax.random.normal(jax.random.key(0), (40, 5), dtype), "b": jnp.zeros(3, dtype)}
    for project in (project_binary, project_ternary):
        for scaled in (False, True):
            theta = project(w, everything, scaled=scaled)
            assert {leaf.dtype for leaf in jax.tree.leaves(theta)} == {jnp.dtype(dtype)}
            sizes = {float(abs(x)) for leaf in jax.tree.leaves(theta) for x in leaf.ravel()} - {0.0}
            assert len(sizes) == 1
            assert scaled or sizes == {1.0}


def test_binary_is_the_mean_magnitude_with_signs():
    w = jnp.asarray([0.5, -0.0, 0.0, -2.0])
    np.testing.assert_array_equal(project_binary(w, everything), [1, 1, 1, -1])
    np.testing.assert_array_equal(
        project_binary(w, everything, scaled=True), [0.625, 0.625, 0.625, -0.625]
    )


def test_unscaled_ternary_rounds_and_sends_the_middle_to_zero():
    w = jnp.asarray([0.5, -0.5, 0.51, -9.0, 0.2])
    np.testing.assert_array_equal(project_ternary(w, everything), [0, 0, 1, -1, 0])


@pytest.mark.long
@pytest.mark.parametrize("project", [project_binary, project_ternary])
def test_sharded_and_batched(project):
    w = jax.random.normal(jax.random.key(5), (16, 24))
    run = jax.jit(lambda w: project(w, everything, scaled=True))
    mesh = jax.make_mesh((4, 2), ("a", "b"))
    spec = PartitionSpec("a", "b")
    auto = Mesh(np.array(jax.devices()).reshape(4, 2), ("a", "b"))
    found = run(jax.device_put(w, NamedSharding(auto, spec)))
    np.testing.assert_allclose(found, run(w), rtol=1e-6)
    with jax.set_mesh(mesh):
        found = run(jax.device_put(w, NamedSharding(mesh, spec)))
    np.testing.assert_allclose(found, run(w), rtol=1e-6)
    piece = lambda w: project(w, everything, scaled=True, specs=spec)  # noqa: E731
    mapped = jax.jit(jax.shard_map(piece, mesh=auto, in_specs=spec, out_specs=spec))
    np.testing.assert_allclose(mapped(w), run(w), rtol=1e-6)
    batch = jnp.stack([w, w**3])
    np.testing.assert_allclose(
        jax.jit(jax.vmap(run))(batch), jnp.stack([run(w) for w in batch]), rtol=1e-6
    )


@pytest.mark.parametrize("project", [project_binary, project_ternary])
def test_without_a_scale_nan_stays_and_infinity_has_a_nearest_value(project):
    got = project(jnp.asarray([0.9, jnp.nan, -jnp.inf]), everything)
    np.testing.assert_array_equal(got, [1, np.nan, -1])
