import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from sparsejax.deploy.sparse_programs._layers import CONVOLUTIONS, DENSE
from tests.deploy.shrinking.test_shrink import normal
from tests.deploy.sparse_programs.programs import run

CASES = {
    "plain": {},
    "padded": {"padding": "SAME"},
    "strided": {"window_strides": (2, 1), "padding": ((1, 0), (0, 2))},
    "dilated": {"rhs_dilation": (2, 1)},
    "channels first": {"dimension_numbers": ("NHWC", "HWIO", "NCHW")},
    "turned": {"dimension_numbers": ("NHWC", "HWIO", "NWHC")},
    "upsampling": {"lhs_dilation": (2, 2), "padding": ((0, 0), (0, 0))},
}


@pytest.mark.parametrize("kind", [DENSE, *CONVOLUTIONS])
@pytest.mark.parametrize("case", CASES)
def test_every_convolution_is_the_dense_one(kind, case):
    rng = np.random.default_rng(0)
    kernel = normal(rng, 3, 2, 4, 5) * (rng.random((3, 2, 4, 5)) < 0.3)
    kernel[..., 2] = 0
    settings = {
        "window_strides": (1, 1), "padding": "VALID", "dimension_numbers": ("NHWC", "HWIO", "NHWC"),
    } | CASES[case]  # fmt: skip
    channels = 1 if case == "channels first" else 3
    shape = [1, 1, 1, 1]
    shape[channels] = 5

    def function(params, x):
        y = lax.conv_general_dilated(x, params["kernel"], **settings)
        y = y * params["scale"].reshape(shape) + params["bias"].reshape(shape)
        return jnp.maximum(y, 0.1) + y

    params = {
        "kernel": kernel.astype(np.float32), "scale": normal(rng, 5), "bias": normal(rng, 5),
    }  # fmt: skip
    x = normal(rng, 6, 9, 8, 4)
    found, layers = run(kind, function, params, x)
    assert layers == (0 if case == "upsampling" and kind != DENSE else 1)
    np.testing.assert_allclose(found, function(params, x), atol=1e-5)


POOLS = {
    "maxima": lambda y: lax.reduce_window(
        y, -jnp.inf, lax.max, (1, 2, 3, 1), (1, 2, 3, 1), "VALID"
    ),
    "sums": lambda y: lax.reduce_window(y, 0.0, lax.add, (1, 2, 1, 1), (1, 3, 2, 1), "VALID"),
    "overlapping": lambda y: lax.reduce_window(
        y, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "SAME"
    ),
    "over channels": lambda y: lax.reduce_window(
        y, 0.0, lax.add, (1, 1, 1, 5), (1, 1, 1, 5), "VALID"
    ),
    "global": lambda y: y.mean(axis=(1, 2)),
    "reversed": lambda y: y[:, ::-1],
    "summed with the input": lambda y: y + y.mean(axis=3, keepdims=True),
}


@pytest.mark.parametrize("kind", [DENSE, *CONVOLUTIONS])
@pytest.mark.parametrize("pool", POOLS)
def test_what_follows_a_convolution(kind, pool):
    rng = np.random.default_rng(0)
    kernel = (normal(rng, 3, 3, 2, 5) * (rng.random((3, 3, 2, 5)) < 0.3)).astype(np.float32)
    numbers = ("NHWC", "HWIO", "NHWC")
    place = normal(rng, 1, 8, 7, 5)  # differs by position

    def function(params, x):
        y = lax.conv_general_dilated(x, params, (1, 1), "VALID", dimension_numbers=numbers)
        return POOLS[pool](jnp.tanh(y + place))

    x = normal(rng, 4, 10, 9, 2)
    found, _ = run(kind, function, kernel, x)
    np.testing.assert_allclose(found, function(kernel, x), atol=1e-5)


def test_batch_normalisation_and_sums_of_branches():
    rng = np.random.default_rng(0)
    numbers = ("NHWC", "HWIO", "NHWC")

    def layer(params, x):
        y = lax.conv_general_dilated(x, params["kernel"], (1, 1), "SAME", dimension_numbers=numbers)
        return (y - params["mean"]) * (lax.rsqrt(params["var"] + 1e-5) * params["scale"])

    def function(params, x):
        hidden = layer(params["second"], jax.nn.relu(layer(params["first"], x)))
        hidden = jax.nn.relu(x + hidden)
        hidden = layer(params["third"], hidden) + hidden
        return hidden.mean(axis=(1, 2)) @ params["last"]

    def draw():
        kernel = normal(rng, 3, 3, 4, 4) * (rng.random((3, 3, 4, 4)) < 0.1)
        norm = {"mean": normal(rng, 4), "scale": normal(rng, 4), "var": rng.random(4)}
        return {"kernel": kernel} | norm

    params = {"first": draw(), "second": draw(), "third": draw(), "last": normal(rng, 4, 3)}
    params = jax.tree.map(np.float32, params)
    x = normal(rng, 2, 8, 8, 4)
    for kind in CONVOLUTIONS:
        found, layers = run(kind, function, params, x)
        assert layers == 3
        np.testing.assert_allclose(found, function(params, x), atol=1e-5)
