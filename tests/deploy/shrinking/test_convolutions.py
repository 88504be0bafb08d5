"""Convolutional networks with depthwise and grouped layers, shuffled channels and upsampling."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from sparsejax.deploy import Network, compile_sparse, expand, export_onnx, shrink
from sparsejax.inspection import macs


def normal(rng, *shape):
    return rng.normal(size=shape).astype(np.float32) / np.float32(math.prod(shape[:-1]) ** 0.5)


def convolve(x, kernel, groups=1, padding="SAME", stride=1):
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )  # fmt: skip


def mobile(params, x):
    """Two inverted residual blocks and a classifier."""
    x = jax.nn.relu6(convolve(x, params["stem"], stride=2) + params["stem_bias"])
    for block in params["blocks"]:
        h = jax.nn.relu6(convolve(x, block["up"]) + block["up_bias"])
        h = convolve(h, block["depthwise"], h.shape[-1] if "whole" in block else 12)
        x = x + convolve(jax.nn.relu6(h + block["depthwise_bias"]), block["down"])
    return x.mean((1, 2)) @ params["head"]


def mobile_params(rng):
    def block():
        return {
            "up": normal(rng, 1, 1, 6, 12), "up_bias": normal(rng, 12),
            "depthwise": normal(rng, 3, 3, 1, 12), "depthwise_bias": normal(rng, 12),
            "down": normal(rng, 1, 1, 12, 6),
        }  # fmt: skip

    return {
        "stem": normal(rng, 3, 3, 2, 6), "stem_bias": normal(rng, 6),
        "blocks": [block(), block()], "head": normal(rng, 6, 3),
    }  # fmt: skip


def test_channels_of_depthwise_blocks_leave():
    """Those that nothing reads, and those that are zero before or behind the depthwise layer."""
    import onnxruntime

    rng = np.random.default_rng(0)
    params = mobile_params(rng)
    first, second = params["blocks"]
    first["down"][:, :, [0, 5]] = 0  # not read
    for name in ("depthwise", "depthwise_bias"):
        first[name][..., [1, 2]] = 0  # zero behind it
    for name in ("up", "up_bias", "depthwise_bias"):
        second[name][..., 7] = 0  # zero before it
    second["up"][..., 3] = 0  # a constant, at the border of which there are zeros: stays
    x = normal(rng, 3, 8, 8, 2)
    small = shrink(Network(mobile, params), x[:2])
    channels = [block["depthwise"].shape[-1] for block in small.params["blocks"]]
    assert channels == [8, 11]
    assert [block["up"].shape[-1] for block in small.params["blocks"]] == channels
    expected = jax.jit(mobile)(params, x)
    np.testing.assert_allclose(jax.jit(small)(x), expected, atol=1e-5)
    np.testing.assert_allclose(expand(small)(x), expected, atol=1e-5)
    fast = compile_sparse(Network(mobile, params), x, rounds=1, kinds=("coo",))
    np.testing.assert_allclose(fast(x), expected, atol=1e-5)
    session = onnxruntime.InferenceSession(
        export_onnx(small, x), providers=["CPUExecutionProvider"]
    )
    np.testing.assert_allclose(session.run(None, {"input0": x})[0], expected, atol=1e-5)
    # Positions 4 x 4, behind the stem: 12 * (6 + 9 + 6) multiplications, of which 4 and 1 leave.
    counts = [macs(net.function, net.params, x) for net in (Network(mobile, params), small)]
    assert counts[0] - counts[1] == 16 * (4 + 1) * (6 + 9 + 6)


def upsampled(params, x):
    """An encoder and a decoder with a skip connection."""
    skip = jax.nn.relu(convolve(x, params["in"]))
    h = jax.nn.relu(convolve(nnx.max_pool(skip, (2, 2), (2, 2)), params["middle"]))
    h = jax.image.resize(h, (len(x), *x.shape[1:3], h.shape[-1]), params["how"])
    h = jnp.concatenate([skip, h], axis=-1)
    return convolve(h, params["out"], padding="VALID")


@pytest.mark.parametrize("how", ["nearest", "bilinear"])
def test_channels_leave_an_encoder_and_a_decoder(how):
    rng = np.random.default_rng(0)
    params = {
        "in": normal(rng, 3, 3, 2, 5), "middle": normal(rng, 3, 3, 5, 7),
        "out": normal(rng, 3, 3, 12, 2),
    }  # fmt: skip
    params["in"][..., 1] = params["middle"][..., [0, 4]] = params["out"][:, :, [2, 11]] = 0
    params["middle"][:, :, 2] = 0

    def function(params, x):
        return upsampled(params | {"how": how}, x)

    x = normal(rng, 3, 6, 8, 2)
    small = shrink(Network(function, params), x[:2])
    wanted = {"in": (3, 3, 2, 3), "middle": (3, 3, 3, 4), "out": (3, 3, 7, 2)}
    assert jax.tree.map(np.shape, small.params) == wanted
    np.testing.assert_allclose(jax.jit(small)(x), jax.jit(function)(params, x), atol=1e-5)


def draw(rng):
    """A random network of convolutions in groups and of what stands between them."""
    params, layers = {}, []

    def leaf(*shape):
        array = normal(rng, *shape)
        array[..., rng.random(shape[-1]) < 0.3] = 0
        if len(shape) > 1:
            array[:, :, rng.random(shape[2]) < 0.2] = 0
        params[f"leaf{len(params)}"] = array
        return f"leaf{len(params) - 1}"

    def grouped(h):
        channels = h.shape[-1]
        groups = int(rng.choice([n for n in range(1, channels + 1) if channels % n == 0]))
        kernel = leaf(2, 3, channels // groups, groups * int(rng.integers(1, 3) + 5 // groups))
        padding = str(rng.choice(["SAME", "VALID"])) if h.shape[1] > 2 else "SAME"
        return lambda p, h: convolve(h, p[kernel], groups, padding)

    def activation(h):
        bias = leaf(h.shape[-1])
        return lambda p, h: jnp.tanh(h + p[bias])

    def shuffle(h):
        channels = h.shape[-1]
        groups = int(rng.choice([n for n in range(1, channels + 1) if channels % n == 0]))
        return lambda p, h: h.reshape(*h.shape[:3], groups, -1).swapaxes(3, 4).reshape(h.shape)

    def resize(h):
        return lambda p, h: jax.image.resize(h, (len(h), 4, 5, h.shape[-1]), "nearest")

    def double(h):
        return lambda p, h: jnp.concatenate([h, jnp.flip(h, -1)], -1)

    kinds = [grouped, grouped, activation, activation, shuffle, resize, double]

    def function(params, h):
        for layer in layers:
            h = layer(params, h)
        return h

    def so_far():
        x = jax.ShapeDtypeStruct((2, 4, 5, 6), jnp.float32)
        return jax.eval_shape(lambda params, x: function(params, x), params, x)

    for _ in range(7):
        h, kind = so_far(), kinds[rng.integers(len(kinds))]
        if h.shape[-1] < 20 or kind is not double:
            layers.append(kind(h))
    kernel, bias = leaf(1, 1, so_far().shape[-1], 3), leaf(3)
    layers.append(lambda p, h: convolve(h, p[kernel]).mean((1, 2)) + p[bias])
    return function, params


@pytest.mark.parametrize("seed", range(5))
def test_random_networks(seed):
    rng = np.random.default_rng(seed)
    function, params = draw(rng)
    x = normal(rng, 3, 4, 5, 6)
    small = shrink(Network(function, params), x[:1])
    size = [sum(map(np.size, jax.tree.leaves(tree))) for tree in (small.params, params)]
    assert size[0] < size[1]
    expected = jax.jit(function)(params, x)
    np.testing.assert_allclose(jax.jit(small)(x), expected, rtol=1e-4, atol=1e-5)
