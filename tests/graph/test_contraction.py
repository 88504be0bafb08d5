import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.graph import Weights, constant_contribution, narrow, widest


@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 3), (6, 4, 2, 3)])
@pytest.mark.parametrize("ndim", [2, 3])
def test_the_contribution_of_constants(shape, ndim):
    """The sum over the constant units and over the window, in float64."""
    rng = np.random.default_rng(0)
    array = rng.normal(size=shape).astype(np.float32)
    ndim = min(ndim, array.ndim)
    rows, numbers = rng.random(6) < 0.6, rng.normal(size=6).astype(np.float32)
    inside = tuple(range(ndim, array.ndim))
    weights = Weights((array != 0).any(axis=inside), array)
    found = constant_contribution(weights, rows, numbers)
    summed = array.astype(np.float64).sum(axis=inside)
    expected = np.einsum("i,i...->...", np.where(rows, numbers.astype(np.float64), 0), summed)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_integers_wrap_and_floats_overflow_to_infinity():
    array = np.full((3, 1), 100, np.int8)
    total = constant_contribution(Weights(array != 0, array), np.ones(3, bool), np.ones(3, np.int8))
    assert total.tolist() == [300]
    assert narrow(total, np.int8).tolist() == [300 - 256]
    assert np.isinf(narrow(np.asarray(1e300), np.float32))
    assert widest(jnp.bfloat16, np.int8) == np.float64
    assert widest(np.uint8) == np.uint64
    assert widest(np.complex64, np.float32) == np.complex128
