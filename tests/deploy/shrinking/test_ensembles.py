"""Populations: networks of equal shapes in one program, by `jax.vmap`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from sparsejax.deploy import Network, export_onnx, shrink

DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def normal(rng, *shape):
    return rng.normal(size=shape).astype(np.float32)


def dense(params, x):
    h = jnp.tanh(x.reshape(len(x), -1) @ params["a"] + params["bias"])
    return h @ params["b"]


def convolutional(params, x):
    h = lax.conv_general_dilated(x, params["a"], (1, 1), "SAME", dimension_numbers=DIMENSIONS)
    h = jax.nn.relu(h + params["bias"])
    h = lax.conv_general_dilated(h, params["b"], (2, 2), "SAME", dimension_numbers=DIMENSIONS)
    return h.mean((1, 2))


@pytest.mark.parametrize(
    ("member", "a", "b"), [(dense, (24, 7), (7, 2)), (convolutional, (2, 2, 2, 7), (3, 3, 7, 2))]
)
def test_units_that_are_dead_in_every_member_leave(member, a, b):
    """Unit 1 is zero in all members, unit 3 read by none, unit 5 in one dead and in one not."""
    import onnxruntime

    rng = np.random.default_rng(0)
    params = {"a": normal(rng, 3, *a), "bias": normal(rng, 3, 7), "b": normal(rng, 3, *b)}
    params["a"][..., 1] = params["bias"][:, 1] = params["b"][..., 3, :] = 0
    params["a"][0, ..., 5] = params["bias"][0, 5] = params["b"][1, ..., 5, :] = 0

    def function(params, x):
        return jax.vmap(member, (0, None))(params, x).mean(0)

    x = normal(rng, 4, 3, 4, 2)
    small = shrink(Network(function, params), x[:2])
    assert small.params["a"].shape == (3, *a[:-1], 5)
    assert small.params["b"].shape == (3, *b[:-2], 5, 2)
    expected = jax.jit(function)(params, x)
    np.testing.assert_allclose(jax.jit(small)(x), expected, rtol=1e-4, atol=1e-5)
    session = onnxruntime.InferenceSession(
        export_onnx(small, x), providers=["CPUExecutionProvider"]
    )
    (found,) = session.run(None, {"input0": x})
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
