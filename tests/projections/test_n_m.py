import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.projections import project_n_m
from tests.reference import shard


def reference(leaf, n, m, axis):
    """By a stable sort of each group's magnitudes."""
    rows = np.moveaxis(np.asarray(leaf, np.float64), axis, -1)
    groups = rows.reshape(-1, m)
    kept = np.zeros_like(groups)
    for group, out in zip(groups, kept, strict=True):
        first = np.argsort(-np.abs(group), kind="stable")[:n]
        out[first] = group[first]
    return np.moveaxis(kept.reshape(rows.shape), -1, axis)


def with_ties(rng, shape, dtype):
    values = rng.integers(-3, 4, shape) * rng.choice([0.5, 1e-40, 1e30], shape)
    return jnp.asarray(values, dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("n", "m", "axis"), [(2, 4, -2), (1, 3, -1), (3, 6, 0), (0, 2, 0), (8, 8, 1)]
)
def test_keeps_the_largest_of_every_group(n, m, axis, dtype):
    tree = {"kernel": with_ties(np.random.default_rng(0), (12, 24, 3), dtype), "bias": jnp.ones(3)}
    if axis == -1:
        tree["kernel"] = jnp.swapaxes(tree["kernel"], 0, 2)
    found = project_n_m(tree, n, m, axis=axis)
    assert found["kernel"].dtype == dtype
    expected = reference(tree["kernel"], n, m, axis)
    np.testing.assert_array_equal(np.asarray(found["kernel"], np.float64), expected)
    np.testing.assert_array_equal(found["bias"], tree["bias"])


def test_the_same_under_jit_and_vmap_and_sharded():
    leaf = jnp.asarray(np.random.default_rng(0).normal(size=(64, 16)), jnp.float32)
    expected = [reference(leaf, n, 4, 0) for n in (0, 1, 2, 4)]
    mapped = jax.jit(jax.vmap(lambda n: project_n_m(leaf, n, 4)))(jnp.asarray([-1, 1, 2, 9]))
    np.testing.assert_array_equal(mapped, np.float32(expected))
    for axes in (("a", None), (None, "b"), ("b", "a")):
        cut = shard(leaf, *axes)
        found = jax.jit(lambda leaf: project_n_m(leaf, 2, 4))(cut)
        assert found.sharding.is_equivalent_to(cut.sharding, 2)
        np.testing.assert_array_equal(found, np.float32(expected[2]))


def test_gradients_flow_to_what_is_kept_and_nan_is_loud():
    leaf = jnp.asarray([[3.0, 1.0, 2.0, -4.0]])
    project = lambda leaf: project_n_m(leaf, 2, 4, axis=1)  # noqa: E731
    gradient = jax.grad(lambda leaf: (project(leaf) ** 2).sum())(leaf)
    np.testing.assert_array_equal(gradient, [[6, 0, 0, -8]])
    holed = jnp.asarray([[jnp.nan, 1, 2, 3, 4, 5, 6, 7]])
    with pytest.raises(ValueError, match="it has NaN in 1 of the 8 entries"):
        project(holed)
    found = jax.jit(project)(holed)
    np.testing.assert_array_equal(jnp.isnan(found), [[True] * 4 + [False] * 4])


@pytest.mark.parametrize(
    ("n", "m", "axis", "error", "message"),
    [
        (3, 2, -2, ValueError, "n must be an integer from 0 to 2; got 3"),
        (1, 0, -2, ValueError, "m must be an integer >= 1; got 0"),
        (1, 2.0, -2, TypeError, "m must be an integer >= 1; got 2.0"),
        (1, 4, -2, ValueError, r"m; got axis -2 and m 4 for the leaf of shape \(6, 4\)"),
        (1, 2, 2, ValueError, "got axis 2"),
    ],
)
def test_bad_arguments_are_named(n, m, axis, error, message):
    with pytest.raises(error, match=message):
        project_n_m(jnp.ones((6, 4)), n, m, axis=axis)
