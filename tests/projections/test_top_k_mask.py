import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsejax.projections import top_k_mask
from tests.reference import shard


def reference(leaves, kappa, allowed):
    """By a stable sort of float64 magnitudes; what is not allowed comes last."""
    flat = np.abs(np.concatenate([np.asarray(x, np.float64).ravel() for x in leaves]))
    allow = np.concatenate([np.asarray(x).ravel() for x in allowed])
    order = np.argsort(np.where(allow, -flat, np.inf), kind="stable")[: min(kappa, allow.sum())]
    mask = np.zeros(flat.size, bool)
    mask[order] = True
    return mask


def flat_of(tree):
    return np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(tree)])


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), dtype=st.sampled_from(["float32", "bfloat16", "both"]))
def test_chooses_what_a_sort_chooses(seed, dtype):
    rng = np.random.default_rng(seed)
    first = rng.integers(-3, 4, (4, 5)) * rng.choice([0.5, 1e-40, 1e30])  # ties, zeros, subnormals
    second = rng.normal(size=(3, 2)) * (rng.random((3, 2)) < 0.7)
    tree = {
        "a": jnp.asarray(first, "bfloat16" if dtype == "bfloat16" else "float32"),
        "b": jnp.asarray(second, "float32" if dtype == "float32" else "bfloat16"),
    }
    within = {"a": rng.random((4, 5)) < 0.6, "b": rng.random((3, 2)) < 0.6}
    kappa = int(rng.integers(0, 27))
    got = top_k_mask(tree, kappa, within)
    leaves = [np.asarray(leaf).astype(np.float64) for leaf in tree.values()]
    np.testing.assert_array_equal(flat_of(got), reference(leaves, kappa, within.values()))


def test_zeros_can_be_chosen_and_infinities_rank_highest():
    tree = jnp.array([[0.0, np.inf, -0.0, 3.4e38]])
    np.testing.assert_array_equal(top_k_mask(tree, 1), [[False, True, False, False]])
    np.testing.assert_array_equal(top_k_mask(tree, 3), [[True, True, False, True]])
    within = jnp.array([[True, False, True, False]])
    np.testing.assert_array_equal(top_k_mask(tree, 1, within), [[True, False, False, False]])
    np.testing.assert_array_equal(top_k_mask(tree, 4, within), within)


def test_leaves_not_chosen_have_no_mask():
    tree = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    mask = top_k_mask(tree, 3)
    assert isinstance(mask["bias"], optax.MaskedNode)
    assert top_k_mask(tree, 3, mask)["kernel"].sum() == 3


def test_under_jit_vmap_and_sharded_it_is_the_same():
    rng = np.random.default_rng(0)
    tree = {"a": rng.normal(size=(16, 8)).astype(np.float32), "b": np.ones((8, 16), np.float32)}
    within = jax.tree.map(lambda x: rng.random(x.shape) < 0.5, tree)
    wanted = flat_of(top_k_mask(tree, 40, within))
    traced = jax.jit(lambda t, k, w: top_k_mask(t, k, w))
    np.testing.assert_array_equal(flat_of(traced(tree, 40, within)), wanted)
    several = jax.vmap(traced, in_axes=(None, 0, None))(tree, jnp.array([10, 40]), within)
    np.testing.assert_array_equal(flat_of(jax.tree.map(lambda m: m[1], several)), wanted)
    cut = jax.tree.map(lambda x: shard(x, "a", "b"), (tree, within))
    got = traced(cut[0], 40, cut[1])
    np.testing.assert_array_equal(flat_of(got), wanted)
    assert got["a"].sharding.is_equivalent_to(cut[0]["a"].sharding, 2)


def test_nan_is_an_error_and_under_jit_changes_nothing():
    tree = jnp.array([[1.0, np.nan, 2.0]])
    within = jnp.array([[True, True, False]])
    with pytest.raises(ValueError, match="NaN"):
        top_k_mask(tree, 1)
    np.testing.assert_array_equal(jax.jit(top_k_mask)(tree, 1, within), within)


@pytest.mark.parametrize(
    ("within", "message"),
    [
        ({"a": np.ones((2, 2), bool)}, "within must have the structure of the tree"),
        ({"a": np.ones((2, 3), bool), "b": np.ones(2, bool)}, "within must have the shapes"),
    ],
)
def test_a_mask_that_does_not_fit_is_named(within, message):
    with pytest.raises(ValueError, match=message):
        top_k_mask({"a": jnp.ones((2, 2)), "b": jnp.ones(2)}, 1, within)
