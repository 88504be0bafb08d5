"""Masks on every kind of tree."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from sparsejax.tickets import apply_mask, jaccard, num_nonzero, ones_mask

FREE = optax.MaskedNode()
PARAMS = {
    "conv": {"kernel": jnp.arange(1.0, 7).reshape(2, 3), "bias": jnp.ones(3)},
    "dense": {"kernel": jnp.full((3, 2), 2.0), "bias": jnp.ones(2)},
}
HALF = jnp.arange(6).reshape(2, 3) % 2 == 0


def test_overlap_is_that_of_sets():
    one = {"a": jnp.array([True, True, False, False]), "b": FREE}
    other = {"a": jnp.array([True, False, True, False]), "b": FREE}
    none = {"a": jnp.zeros(4, bool), "b": FREE}
    assert float(jaccard(one, other)) == pytest.approx(1 / 3)
    assert float(jaccard(one, one)) == float(jaccard(none, none)) == 1
    assert float(jaccard(one, none)) == 0


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_whole_subtree_may_be_free(dtype):
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), PARAMS)
    mask = {"conv": {"kernel": HALF, "bias": FREE}, "dense": FREE}
    cut = jax.jit(apply_mask)(params, mask)
    assert jax.tree.structure(cut) == jax.tree.structure(params)
    np.testing.assert_array_equal(cut["conv"]["kernel"], [[1, 0, 3], [0, 5, 0]])
    assert cut["conv"]["kernel"].dtype == dtype
    jax.tree.map(np.testing.assert_array_equal, cut["dense"], params["dense"])
    assert int(num_nonzero(mask)) == 3
    assert float(jaccard(mask, mask)) == 1
    assert int(num_nonzero(ones_mask(params))) == 12


def test_arrays_in_wrappers_are_masked_in_place():
    model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    params = nnx.state(model, nnx.Param)
    mask = ones_mask(params)
    assert int(num_nonzero(mask)) == 6
    mask["kernel"] = mask["kernel"].replace(HALF)
    cut = apply_mask(params, mask)
    assert jax.tree.structure(cut) == jax.tree.structure(params)
    np.testing.assert_array_equal(cut["kernel"][...], jnp.where(HALF, params["kernel"][...], 0))
    np.testing.assert_array_equal(cut["bias"][...], params["bias"][...])
    assert float(jaccard(mask, ones_mask(params))) == 0.5


def test_what_is_masked_may_be_anything():
    """Not even the gradient sees it."""
    weights = jnp.array([1.0, jnp.nan, jnp.inf])
    value, grad = jax.value_and_grad(
        lambda w: (apply_mask(w, jnp.array([True, False, False])) ** 2).sum()
    )(weights)
    assert float(value) == 1
    np.testing.assert_array_equal(grad, [2, 0, 0])


def test_masks_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="mask must have the structure of params, with optax.Mas"):
        apply_mask(PARAMS, {"conv": FREE})
    wrong = {"conv": {"kernel": HALF.T, "bias": FREE}, "dense": FREE}
    with pytest.raises(ValueError, match=r"\['conv'\]\['kernel'\] has shape \(3, 2\), the leaf of"):
        apply_mask(PARAMS, wrong)
    with pytest.raises(ValueError, match="mask must have the shapes of params"):
        apply_mask(PARAMS, {"conv": HALF, "dense": FREE})


def test_masks_of_bits_are_not_counted_as_bytes():
    packed = {"kernel": jnp.array([[255], [1]], jnp.uint8)}
    for count in (num_nonzero, lambda mask: jaccard(mask, mask)):
        with pytest.raises(TypeError, match=r"must hold booleans; \['kernel'\] has dtype uint8"):
            count(packed)
