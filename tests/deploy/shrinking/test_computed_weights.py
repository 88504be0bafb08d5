"""Kernels that the function computes from its parameters: products, norms, sums of both."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.deploy import Network, shrink


def normal(rng, *shape):
    return rng.normal(size=shape).astype(np.float32)


def adapted(p):
    """A low-rank addition, in which one of three ranks is zero on one side."""
    return p["kernel"] + p["a"] @ p["b"]


def weight_norm(p):
    return p["scale"] * p["kernel"] / jnp.linalg.norm(p["kernel"], axis=0)


def standardized(p):
    """Weight standardization: the mean and the variance of each column."""
    kernel = p["kernel"] - p["kernel"].mean(0)
    return p["scale"] * kernel / jnp.sqrt(kernel.var(0) + 1e-3)


def summed(p):
    """An operation that needs all rows, and passes columns."""
    return jnp.cumsum(p["kernel"], axis=0) * p["scale"]


@pytest.mark.parametrize(
    ("kernel", "left"),
    [
        (adapted, {"kernel": (5, 6), "a": (5, 2), "b": (2, 6), "scale": (8,), "out": (6, 3)}),
        (weight_norm, {"kernel": (5, 6), "scale": (6,), "out": (6, 3)}),
        (standardized, {"kernel": (6, 6), "scale": (6,), "out": (6, 3)}),
        (summed, {"kernel": (6, 6), "scale": (6,), "out": (6, 3)}),
    ],
)
def test_units_leave_all_parameters_that_make_a_kernel(kernel, left):
    """Unit 2 is dead because its column is zero, unit 5 because nothing reads it.

    Row 4 is zero but for the columns that leave, so nothing needs it, unless a mean does.
    """
    rng = np.random.default_rng(0)
    params = {
        "first": normal(rng, 4, 6), "kernel": normal(rng, 6, 8), "a": normal(rng, 6, 3),
        "b": normal(rng, 3, 8), "scale": normal(rng, 8), "out": normal(rng, 8, 3),
    }  # fmt: skip
    params["kernel"][4, [0, 1, 3, 4, 6, 7]] = params["a"][4] = params["a"][:, 1] = 0
    params["scale"][2] = params["b"][:, 2] = params["out"][5] = 0
    if kernel is adapted:
        params["kernel"][:, 2] = 0
    used = {"first", *left}
    params = {name: array for name, array in params.items() if name in used}

    def function(params, x):
        return jax.nn.relu(jnp.tanh(x @ params["first"]) @ kernel(params)) @ params["out"]

    x = normal(rng, 5, 4)
    small = shrink(Network(function, params), x[:2])
    shapes = {name: array.shape for name, array in small.params.items()}
    assert shapes == left | {"first": (4, left["kernel"][0])}
    expected = jax.jit(function)(params, x)
    np.testing.assert_allclose(jax.jit(small)(x), expected, rtol=1e-4, atol=1e-5)
