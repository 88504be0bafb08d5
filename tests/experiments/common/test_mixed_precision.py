"""Products with rounded operands, against products of operands that were rounded before."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common.mixed_precision import mixed_precision


def rounded(array):
    return array.astype(jnp.bfloat16).astype(jnp.float32)


def network(params, inputs):
    hidden = jax.nn.silu(inputs @ params["first"])
    return hidden @ params["second"].T


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    return {"first": normal(16, 5), "second": normal(7, 5)}, normal(4, 8, 16), normal(4, 8, 7)


def test_operands_are_rounded_and_sums_are_not(arrays):
    params, inputs, _ = arrays
    hidden = jax.nn.silu(rounded(inputs) @ rounded(params["first"]))
    expected = rounded(hidden) @ rounded(params["second"]).T
    found = jax.jit(mixed_precision(network))(params, inputs)
    assert found.dtype == jnp.float32
    # The hidden units may be rounded the other way, where the sums differ in their last bits.
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)
    assert np.abs(found - network(params, inputs)).max() > 1e-2


def test_gradients_are_those_of_rounded_operands(arrays):
    params, inputs, gradient = arrays
    weighted = lambda f: lambda p, x: (f(p, x) * gradient).sum()  # noqa: E731
    found = jax.jit(jax.grad(weighted(mixed_precision(network)), (0, 1)))(params, inputs)
    by_products, before = jax.vjp(jax.nn.silu, rounded(inputs) @ rounded(params["first"]))
    of_hidden = rounded(gradient) @ rounded(params["second"])
    (of_sums,) = before(of_hidden)
    of_sums = rounded(of_sums)
    expected = {
        "first": jnp.einsum("bli,blo->io", rounded(inputs), of_sums),
        "second": jnp.einsum("blo,blh->oh", rounded(gradient), rounded(by_products)),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(found[0][name], value, rtol=5e-3, atol=5e-2)
    np.testing.assert_allclose(found[1], of_sums @ rounded(params["first"]).T, rtol=5e-3, atol=5e-2)


def test_other_products_stay_as_they_are(arrays):
    _, inputs, _ = arrays
    whole = lambda params, x: (jnp.einsum("bli,bmi->blm", x, x), x.sum() * params)  # noqa: E731
    found = mixed_precision(whole)(jnp.float32(2), inputs)
    for one, other in zip(found, whole(2.0, inputs), strict=True):
        np.testing.assert_array_equal(one, other)
    half = inputs[0].astype(jnp.bfloat16)
    product = lambda params, x: x @ params  # noqa: E731
    found = mixed_precision(product)(half.T, half)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, product(half.T, half))
