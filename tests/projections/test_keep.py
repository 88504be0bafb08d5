"""Kept entries keep their bits, in each dtype and at each length (XLA treats remainders apart)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.projections import hard_threshold, project_l0_ball, project_n_m
from sparsejax.projections._keep import keep

pytestmark = pytest.mark.optimized  # how a loop is vectorised decides what is flushed to zero

LENGTHS = (1, 2, 3, 4, 5, 7, 8, 12, 17, 33, 40, 65, 66, 129, 1000, 4097)
DTYPES = (jnp.bfloat16, jnp.float16, jnp.float32)


def bits(x):
    return np.asarray(x).view(f"u{x.dtype.itemsize}")


def subnormals(length, dtype):
    """Distinct subnormal numbers of both signs, as far as there are that many."""
    width = jnp.finfo(dtype).bits
    patterns = np.arange(length) % (2 ** jnp.finfo(dtype).nmant - 1) + 1
    patterns[::2] += 2 ** (width - 1)
    return jnp.asarray(patterns.astype(f"u{width // 8}").view(dtype))


@pytest.mark.long
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", LENGTHS)
def test_subnormals_are_kept(length, dtype):
    x = subnormals(length, dtype)
    mask = np.arange(length) % 3 != 1
    expected = np.where(mask, bits(x), 0)
    undefined = jnp.asarray(False)
    np.testing.assert_array_equal(bits(jax.jit(keep)(x, mask, undefined)), expected)
    np.testing.assert_array_equal(bits(keep(x, mask)), expected)
    assert np.isnan(keep(x, mask, jnp.asarray(True)).astype(np.float32)).all()


@pytest.mark.long
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [8, 65])
def test_projections_keep_subnormals(length, dtype):
    x = subnormals(length, dtype)[:, None]
    np.testing.assert_array_equal(bits(hard_threshold(x, 0.0)), bits(x))
    np.testing.assert_array_equal(bits(project_l0_ball(x, length)), bits(x))
    magnitude = bits(x) & (2 ** (jnp.finfo(dtype).bits - 1) - 1)
    largest = np.argsort(-magnitude.astype(np.int64), axis=0, kind="stable")[: length // 2]
    half = np.zeros_like(bits(x))
    np.put_along_axis(half, largest, np.take_along_axis(bits(x), largest, 0), 0)
    np.testing.assert_array_equal(bits(project_l0_ball(x, length // 2)), half)
    if length % 2 == 0:
        np.testing.assert_array_equal(bits(project_n_m(x, 2, 2, axis=0)), bits(x))


@pytest.mark.parametrize("dtype", DTYPES)
def test_infinities_negative_zeros_and_nans_are_kept(dtype):
    x = jnp.array([jnp.inf, -jnp.inf, -0.0, 1.5, jnp.nan], dtype)
    np.testing.assert_array_equal(bits(keep(x, np.ones(5, bool))), bits(x))
    np.testing.assert_array_equal(bits(keep(x, np.zeros(5, bool))), 0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_gradient_flows_to_kept_entries_through_vmap_and_jit(dtype):
    x = jnp.arange(1, 9, dtype=dtype).reshape(2, 4)
    mask = np.array([[True, False, True, False], [False, False, True, True]])
    gradient = jax.jit(jax.vmap(jax.grad(lambda x, m: keep(x * 3, m).sum())))(x, mask)
    np.testing.assert_array_equal(gradient.astype(np.float32), 3.0 * mask)
    primal, tangent = jax.jvp(lambda x: keep(x, mask, ~mask), (x,), (jnp.ones_like(x),))
    np.testing.assert_array_equal(np.isnan(primal.astype(np.float32)), ~mask)
    np.testing.assert_array_equal(tangent.astype(np.float32), mask)
