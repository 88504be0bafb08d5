"""Groups of weights with a scale each: against brute force, in forms and in files."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.compression import QuantizedArray, ScaledArray, decode, quantize
from sparsejax.inspection import storage_bits


def run(c_step, weights):
    theta, state = jax.jit(c_step.project)(weights, 1.0, c_step.init(weights))
    return theta, state, c_step.encode(theta, state)


def best_error(group, codebook):
    """The least squared error over all scales and assignments, for a group of float64."""
    values = np.asarray(list(itertools.product(codebook, repeat=len(group))))
    over, under = np.maximum(values @ group, 0), np.square(values).sum(1)
    return (group @ group) - np.max(np.square(over) / np.where(under > 0, under, 1))


def test_scales_are_near_the_best():
    """200 groups of 6 weights, of very different sizes; the last axis has them, and its rest."""
    rng = np.random.default_rng(0)
    weights = np.float32(rng.normal(size=(50, 24)) * np.exp(rng.normal(size=(50, 24))))
    for codebook in ([-2.0, -1, 1, 2], [-1.0, 0, 1]):
        theta, state, _ = run(quantize(codebook, group_size=6, axis=-1), jnp.asarray(weights))
        assert state.scales.shape == (50, 4)
        errors = np.square(np.float64(theta) - weights).reshape(200, 6).sum(1)
        best = [best_error(group, codebook) for group in np.float64(weights).reshape(200, 6)]
        assert (errors >= np.asarray(best) * (1 - 1e-5)).all()
        assert errors.sum() < 1.03 * np.sum(best)
        largest = np.abs(weights).reshape(50, 4, 6).max(-1, keepdims=True) / codebook[-1]
        levels = np.asarray(codebook)
        near = np.abs(weights.reshape(50, 4, 6, 1) / largest[..., None] - levels).argmin(-1)
        simple = np.square(levels[near] * largest - weights.reshape(50, 4, 6)).sum()
        assert errors.sum() < 0.95 * simple  # of the scale of the largest magnitude


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
    "c_step",
    [
        quantize(4, group_size=8, zeros=False),
        quantize(3, group_size=5, per_leaf=True, exact=False),
        quantize([-2.0, -1.0, 1.0, 2.0], group_size=8, zeros=False),
    ],
)
def test_forms_give_the_weights_back(c_step, dtype):
    rng = np.random.default_rng(0)
    weights = {
        "a": jnp.asarray(rng.normal(size=(20, 6)) * (rng.random((20, 6)) < 0.5), dtype),
        "b": jnp.asarray(rng.normal(size=(2, 16, 3)), dtype).at[0, :8].set(0),
    }
    theta, state, forms = run(c_step, weights)
    for name, leaf in weights.items():
        form = forms[name]
        assert isinstance(form, ScaledArray)
        assert isinstance(form.values, QuantizedArray)
        assert form.scales.dtype == jnp.bfloat16
        groups = -(-leaf.shape[-2] // form.group_size)
        assert form.scales.shape == (*leaf.shape[:-2], groups, leaf.shape[-1])
        for found in (decode(form), decode(jax.tree.map(np.asarray, form))):
            found = np.asarray(found)
            assert found.dtype == dtype
            assert found.tobytes() == np.asarray(theta[name]).tobytes()
        zero = np.asarray(leaf) == 0
        assert not np.asarray(theta[name])[zero].any() or form.group_size == 5
        used = form.values.codebook[form.values.codes[~zero]]
        assert np.unique(np.asarray(used)).size <= np.shape(jax.tree.leaves(state.codebook)[0])[0]


def test_a_group_is_fitted_by_itself():
    leaf = jnp.asarray(np.random.default_rng(0).normal(size=(10, 4)), jnp.float32)
    c_step = quantize([-1.0, 1.0], group_size=4)
    whole, *_ = run(c_step, leaf)
    for rows in (slice(0, 4), slice(4, 8), slice(8, 10)):
        np.testing.assert_array_equal(run(c_step, leaf[rows])[0], whole[rows])


def test_bits_are_those_of_codes_and_scales():
    form = ScaledArray(
        QuantizedArray(1 + jnp.arange(16.0), jnp.ones((64, 3), jnp.uint8)),
        jnp.ones((2, 3), jnp.bfloat16), 0, 32, jnp.dtype("float32"),
    )  # fmt: skip
    found = storage_bits(form)
    assert found.leaves[0].form == "quantized scaled"
    assert found.total == 64 * 3 * 4 + 2 * 3 * 16 + 16 * 32
