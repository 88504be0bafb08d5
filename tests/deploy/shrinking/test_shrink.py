import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from sparsejax import gates
from sparsejax.deploy import Network, shrink
from sparsejax.gates import hard_concrete, per_output
from sparsejax.inspection import live_unit_masks, live_units
from sparsejax.models import (
    LENET5_LAYERS,
    LENET300_LAYERS,
    VGG16,
    VGG16_LAYERS,
    LeNet5,
    LeNet300,
)


def forward(make, rng):
    """A pure function of the parameters and inputs, and parameters drawn at random."""
    graph, state, rest = nnx.split(nnx.eval_shape(make), nnx.Param, ...)
    params = nnx.to_pure_dict(state)
    structure = jax.tree.structure(state)

    def function(params, x):
        state = jax.tree.unflatten(structure, jax.tree.leaves(params))
        return nnx.merge(graph, state, rest)(x)

    def draw(leaf):
        fan_in = max(1, np.prod(leaf.shape[:-1]))
        return normal(rng, *leaf.shape) * np.float32(fan_in**-0.5)

    return function, jax.tree.map(draw, params)


def pruned(params, rng, share, biases=True):
    """Kernels with a share of their weights left; biases as they are or all zero."""

    def prune(leaf):
        stays = rng.random(leaf.shape) < share if leaf.ndim > 1 else biases
        return np.where(stays, leaf, np.float32(0))

    return jax.tree.map(prune, params)


def shapes(params):
    return [leaf.shape for leaf in jax.tree.leaves(params)]


def count(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def example(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def normal(rng, *shape):
    return rng.normal(size=shape).astype(np.float32)


def zeroed(array, *index):
    """A copy with zeros at an index."""
    array = array.copy()
    array[index] = 0
    return array


def assert_same(small, function, params, *inputs, atol=1e-5):
    """The shrunk network agrees."""
    expected = jax.jit(function)(params, *inputs)
    found = jax.jit(small.function)(small.params, *inputs)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=atol, rtol=1e-5)


def assert_idempotent(small, *examples):
    again = shrink(small, *examples)
    assert shapes(again.params) == shapes(small.params)
    for before, after in zip(
        jax.tree.leaves(small.params), jax.tree.leaves(again.params), strict=True
    ):
        assert before is after


# The networks of the papers


def assert_live(small, params, layers):
    """What stays is what is live in the chain of layers."""
    masks = live_unit_masks(params, layers)
    for layer, mask in zip(layers, masks[1:], strict=True):
        assert_kept(small.kept[f"{layer}/bias"][0], mask)


def assert_kept(places, mask):
    np.testing.assert_array_equal(np.arange(len(mask))[places].ravel(), *mask.nonzero())


@pytest.mark.parametrize(
    ("activation", "share"), [("relu", 0.02), ("relu", 0.1), ("tanh", 0.03), ("tanh", 1.0)]
)
def test_lenet300_loses_all_that_is_not_live(activation, share):
    rng = np.random.default_rng(0)
    function, params = forward(lambda: LeNet300(activation, (60, 30), rngs=nnx.Rngs(0)), rng)
    params = pruned(params, rng, share)
    small = shrink(Network(function, params), example(2, 784))
    assert_live(small, params, LENET300_LAYERS)
    pixels = live_unit_masks(params, LENET300_LAYERS)[0]
    assert_kept(small.kept_inputs["0"][1], pixels)
    assert_kept(small.kept["dense1/kernel"][0], pixels)
    assert_same(small, function, params, normal(rng, 5, 784))
    assert_idempotent(small, example(2, 784))


def test_pixels_are_dropped_behind_the_flattening():
    rng = np.random.default_rng(1)
    function, params = forward(lambda: LeNet300(units=(20, 10), rngs=nnx.Rngs(0)), rng)
    params = pruned(params, rng, 0.02)
    small = shrink(Network(function, params), example(1, 28, 28, 1))
    assert small.params["dense1"]["kernel"].shape[0] < 784 / 2
    for batch in (1, 4):
        assert_same(small, function, params, normal(rng, batch, 28, 28, 1))


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_lenet5_loses_channels_and_single_inputs(share):
    rng = np.random.default_rng(0)
    function, params = forward(lambda: LeNet5((8, 12, 20), rngs=nnx.Rngs(0)), rng)
    params = pruned(params, rng, share)
    params["conv2"]["kernel"] = zeroed(params["conv2"]["kernel"], ..., [1, 5])
    params["conv2"]["bias"] = zeroed(params["conv2"]["bias"], 5)
    small = shrink(Network(function, params), example(2, 28, 28, 1))
    assert_live(small, params, LENET5_LAYERS)
    assert small.params["conv2"]["kernel"].shape[-1] == 10
    _, _, channels, units, _ = live_unit_masks(params, LENET5_LAYERS)
    read = (params["dense1"]["kernel"][:, units] != 0).any(axis=1)
    assert_kept(small.kept["dense1/kernel"][0], read & np.tile(channels, 16))
    assert_same(small, function, params, normal(rng, 3, 28, 28, 1))
    assert_idempotent(small, example(2, 28, 28, 1))


def test_an_unpadded_convolution_absorbs_constants():
    rng = np.random.default_rng(0)
    function, params = forward(lambda: LeNet5((4, 5, 6), rngs=nnx.Rngs(0)), rng)
    params["conv1"]["kernel"] = zeroed(params["conv1"]["kernel"], ..., 2)
    params["conv1"]["bias"][2] = 1.5
    small = shrink(Network(function, params), example(2, 784))
    assert small.params["conv2"]["kernel"].shape == (5, 5, 3, 5)
    assert_same(small, function, params, normal(rng, 3, 784))


def test_a_network_with_kept_inputs_shrinks_further():
    rng = np.random.default_rng(0)
    kept = rng.permutation(16 * 12)[:100].tolist()
    function, params = forward(lambda: LeNet5((8, 12, 20), kept, rngs=nnx.Rngs(0)), rng)
    params = pruned(params, rng, 0.03)
    small = shrink(Network(function, params), example(2, 784))
    assert small.params["dense1"]["kernel"].shape[0] < 60
    assert_same(small, function, params, normal(rng, 3, 784))
    assert_idempotent(small, example(2, 784))


def test_vgg16_of_small_width():
    rng = np.random.default_rng(0)
    function, params = forward(lambda: VGG16(10, 0.03, rngs=nnx.Rngs(0)), rng)
    params = pruned(params, rng, 0.9, biases=False)
    for name in ("conv2_1", "conv5_3", "fc7"):
        params[name]["kernel"] = zeroed(params[name]["kernel"], ..., slice(None, None, 2))
    small = shrink(Network(function, params), example(2, 224, 224, 3))
    assert live_units(small.params, VGG16_LAYERS) == live_units(params, VGG16_LAYERS)
    assert small.params["fc6"]["kernel"].shape == (49 * 7, 123)
    assert_same(small, function, params, normal(rng, 1, 224, 224, 3))


# Networks with branches


def normalise(norm, x):
    """As batch normalisation is computed with running statistics."""
    return (x - norm["mean"]) * (lax.rsqrt(norm["var"] + 1e-5) * norm["scale"]) + norm["bias"]


def residual(params, x):
    """Two blocks, the second with stride and a projection, as in ResNet-20."""

    def layer(number, x, stride=1):
        kernel = params[f"conv{number}"]
        pads = ((kernel.shape[0] // 2,) * 2,) * 2
        return normalise(params[f"norm{number}"], convolve(x, kernel, pads, stride))

    x = jax.nn.relu(layer(0, x))
    x = jax.nn.relu(x + layer(2, jax.nn.relu(layer(1, x))))
    x = jax.nn.relu(layer(5, x, 2) + layer(4, jax.nn.relu(layer(3, x, 2))))
    return x.mean((1, 2)) @ params["dense"] + params["bias"]


def residual_params(rng):
    sizes = [(3, 6), (6, 7), (7, 6), (6, 9), (9, 8), (6, 8)]
    params = {"dense": normal(rng, 8, 5), "bias": normal(rng, 5)}
    for number, (ins, outs) in enumerate(sizes):
        side = 1 if number == 5 else 3
        params[f"conv{number}"] = normal(rng, side, side, ins, outs) / np.float32(side * ins**0.5)
        params[f"norm{number}"] = {name: normal(rng, outs) for name in ("scale", "bias", "mean")}
        params[f"norm{number}"]["var"] = rng.uniform(0.5, 2, outs).astype(np.float32)
    return params


def close(norm, channels):
    for name in ("scale", "bias"):
        norm[name] = zeroed(norm[name], channels)


@pytest.mark.parametrize("closed_over", [False, True])
def test_a_channel_of_a_residual_stream_goes_when_dead_on_every_branch(closed_over):
    rng = np.random.default_rng(0)
    params = residual_params(rng)
    close(params["norm1"], [0, 3])
    close(params["norm3"], [1, 2, 8])
    close(params["norm0"], [2, 4])
    close(params["norm2"], [2])  # channel 4 is alive on this branch
    close(params["norm4"], [5])
    close(params["norm5"], [5, 6])  # channel 6 is alive on the other branch
    function = residual
    if closed_over:  # as statistics often are
        norms = {name: params.pop(name) for name in list(params) if name.startswith("norm")}
        function = lambda params, x: residual(params | norms, x)  # noqa: E731
    small = shrink(Network(function, params), example(2, 8, 8, 3))
    expected = {
        "conv0": (3, 3, 3, 5),
        "conv1": (3, 3, 5, 5),
        "conv2": (3, 3, 5, 5),
        "conv3": (3, 3, 5, 6),
        "conv4": (3, 3, 6, 7),
        "conv5": (1, 1, 5, 7),
        "dense": (7, 5),
    }
    assert {name: small.params[name].shape for name in expected} == expected
    np.testing.assert_array_equal(small.kept["dense"][0], [0, 1, 2, 3, 4, 6, 7])
    if not closed_over:
        assert small.params["norm3"]["mean"].shape == (6,)
        assert_idempotent(small, example(2, 8, 8, 3))
    assert_same(small, function, params, normal(rng, 3, 8, 8, 3))


@pytest.mark.parametrize("seed", range(3))
def test_random_residual_networks(seed):
    rng = np.random.default_rng(seed)
    params = residual_params(rng)
    for name in ("conv0", "conv1", "conv2", "conv3", "conv4", "conv5", "dense"):
        ins, outs = (rng.random(n) < 0.6 for n in params[name].shape[-2:])
        params[name] = np.where(np.outer(ins, outs), params[name], np.float32(0))
    for number in range(6):
        close(params[f"norm{number}"], rng.random(len(params[f"norm{number}"]["bias"])) < 0.3)
    small = shrink(Network(residual, params), example(2, 6, 6, 3))
    assert count(small.params) < count(params)
    assert_same(small, residual, params, normal(rng, 3, 6, 6, 3))
    assert_idempotent(small, example(2, 6, 6, 3))


def test_batch_normalisation_of_flax():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.dense1 = nnx.Linear(4, 6, rngs=rngs)
            self.norm = nnx.BatchNorm(6, use_running_average=True, rngs=rngs)
            self.dense2 = nnx.Linear(6, 3, rngs=rngs)

        def __call__(self, x):
            return self.dense2(jax.nn.relu(self.norm(self.dense1(x))))

    rng = np.random.default_rng(0)
    model = Net(nnx.Rngs(0))
    model.norm.mean[...] = jnp.asarray(normal(rng, 6))
    model.norm.bias[...] = jnp.asarray([0.5, 0.5, -1, 0, 0, 0])
    model.norm.scale[...] = jnp.asarray([1.0, 0, 0, 0, 1, 1])
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    function = lambda params, x: nnx.merge(graph, params, rest)(x)  # noqa: E731
    small = shrink(Network(function, params), example(2, 4))
    assert small.params["dense1"]["kernel"].shape == (4, 3)  # constants 0.5, 0 and 0 are folded
    assert small.params["norm"]["scale"].shape == (3,)
    assert_same(small, function, params, normal(rng, 3, 4))


def convolve(x, kernel, padding="SAME", stride=1):
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def branches(params, x):
    """Concatenation, average pooling with several counts, a cut, and padded channels."""
    left = jax.nn.gelu(convolve(x, params["left"]) + params["left_bias"])
    right = jnp.tanh(convolve(x, params["right"]))
    x = jnp.concatenate([left, right], axis=-1)
    x = nnx.avg_pool(x, (3, 3), (2, 2), "SAME", count_include_pad=False)
    first, second = jnp.split(x, [5], axis=-1)
    second = jnp.pad(second[..., 1:], ((0, 0), (0, 0), (0, 0), (1, 1)))
    x = jnp.concatenate([first, jax.nn.silu(second)], axis=3)
    x = jnp.transpose(convolve(x, params["last"], "VALID") + params["last_bias"], (0, 3, 1, 2))
    return x.reshape(x.shape[0], -1) @ params["dense"]


def branch_params(rng):
    return {
        "left": normal(rng, 3, 3, 2, 4),
        "left_bias": normal(rng, 4),
        "right": normal(rng, 3, 3, 2, 6),
        "last": normal(rng, 2, 2, 11, 5) / np.float32(6),
        "last_bias": normal(rng, 5),
        "dense": normal(rng, 5 * 3 * 3, 3) / np.float32(6),
    }


@pytest.mark.parametrize("seed", range(4))
def test_concatenation_cuts_and_average_pools(seed):
    rng = np.random.default_rng(seed)
    params = branch_params(rng)
    for name, axis in (("left", 3), ("right", 3), ("last", 2), ("last", 3), ("dense", 0)):
        gone = rng.random(params[name].shape[axis]) < 0.4
        params[name] = zeroed(params[name], *(slice(None),) * axis, gone)
    small = shrink(Network(branches, params), example(2, 8, 8, 2))
    assert count(small.params) < count(params)
    assert_same(small, branches, params, normal(rng, 5, 8, 8, 2))
    assert_idempotent(small, example(2, 8, 8, 2))


def test_a_concatenation_loses_the_channels_of_each_part():
    rng = np.random.default_rng(0)
    params = branch_params(rng)
    params["right"] = zeroed(params["right"], ..., [3, 4])
    params["last"] = zeroed(params["last"], slice(None), slice(None), 0)
    small = shrink(Network(branches, params), example(2, 8, 8, 2))
    # Behind the concatenation channel 1 of the right part is cut off, so nothing reads it.
    np.testing.assert_array_equal(small.kept["left"][3], [1, 2, 3])
    np.testing.assert_array_equal(small.kept["right"][3], [0, 2, 5])
    # Padded channels are zero, and those that were taken out, too.
    np.testing.assert_array_equal(small.kept["last"][2], [1, 2, 3, 4, 6, 9])
    assert_same(small, branches, params, normal(rng, 2, 8, 8, 2))


def test_nothing_pruned_comes_back_whole():
    rng = np.random.default_rng(0)
    cases = [
        (*forward(lambda: LeNet5((3, 4, 5), rngs=nnx.Rngs(0)), rng), (2, 784)),
        (residual, residual_params(rng), (2, 8, 8, 3)),
    ]
    for function, params, shape in cases:
        small = shrink(Network(function, params), example(*shape))
        kept = (*small.kept.values(), *small.kept_inputs.values())
        assert all(places is None for axes in kept for places in axes)
        for old, new in zip(jax.tree.leaves(params), jax.tree.leaves(small.params), strict=True):
            assert old is new
        assert_same(small, function, params, normal(rng, *shape))


# Constants


def mlp(params, x):
    for layer in params[:-1]:
        x = jnp.tanh(x @ layer["kernel"] + layer["bias"])
    return x @ params[-1]["kernel"]


def test_constants_travel_upwards():
    params = [
        {"kernel": jnp.asarray([[1.0, 0, 0], [2, 0, 0]]), "bias": jnp.asarray([0.5, 2.0, 1.0])},
        {
            "kernel": jnp.asarray([[1.0, 0, 1], [0, 3, 1], [0, 0, 0]]),
            "bias": jnp.asarray([0.0, 1.0, 0.0]),
        },
        {"kernel": jnp.asarray([[1.0], [10], [1]])},
    ]
    small = shrink(Network(mlp, params), example(2, 2))
    # The last layer has no bias: a constant that it reads stays.
    assert [leaf["kernel"].shape for leaf in small.params] == [(2, 1), (1, 3), (3, 1)]
    moved = np.tanh(2.0)
    np.testing.assert_allclose(small.params[1]["bias"], [0, 1 + 3 * moved, moved], rtol=1e-6)
    assert_same(small, mlp, params, jnp.asarray([[0.3, -0.2], [1.0, 0.4]]))

    def with_bias(params, x):
        return mlp(params, x) + 0.25

    def with_array(params, x):
        return mlp(params, x) + jnp.asarray([0.25])

    assert shapes(shrink(Network(with_bias, params), example(2, 2)).params) == shapes(small.params)
    smaller = shrink(Network(with_array, params), example(2, 2))
    # A constant array that the function closes over absorbs, too.
    assert [leaf["kernel"].shape for leaf in smaller.params] == [(2, 1), (1, 2), (2, 1)]
    np.testing.assert_allclose(smaller.params[1]["bias"], [0, np.tanh(2.0)], rtol=1e-6)
    assert_same(smaller, with_array, params, jnp.asarray([[0.3, -0.2], [1.0, 0.4]]))


@pytest.mark.parametrize(("padding", "channels"), [("SAME", 3), ("VALID", 2)])
def test_a_constant_before_zeros_at_the_border_stays(padding, channels):
    rng = np.random.default_rng(0)
    params = {
        "first": zeroed(normal(rng, 3, 3, 1, 3), ..., 1),
        "bias": jnp.asarray([0.1, 0.7, -0.2]),
        "second": normal(rng, 3, 3, 3, 2),
        "mean": normal(rng, 2),
    }

    def function(params, x):
        x = jax.nn.relu(convolve(x, params["first"]) + params["bias"])
        return convolve(x, params["second"], padding) - params["mean"]

    small = shrink(Network(function, params), example(2, 6, 6, 1))
    assert small.params["second"].shape == (3, 3, channels, 2)
    assert_same(small, function, params, normal(rng, 2, 6, 6, 1))


def test_a_bias_that_is_read_twice_absorbs_nothing():
    rng = np.random.default_rng(0)
    params = {
        "first": zeroed(normal(rng, 4, 3), slice(None), 1),
        "bias": normal(rng, 3),
        "second": normal(rng, 3, 2),
        "shared": normal(rng, 2),
    }

    def function(params, x):
        x = jnp.tanh(x @ params["first"] + params["bias"])
        return x @ params["second"] + params["shared"] + params["shared"]

    small = shrink(Network(function, params), example(2, 4))
    assert shapes(small.params) == shapes(params)
    assert_same(small, function, params, normal(rng, 3, 4))


def test_gates_inside_the_function():
    rng = np.random.default_rng(0)
    params = {"conv": normal(rng, 3, 3, 2, 6), "bias": normal(rng, 6), "dense": normal(rng, 96, 3)}
    kinds = hard_concrete(grouping=per_output, where=lambda path, leaf: leaf.ndim == 4)
    z = kinds.median(kinds.init(jax.random.key(0), params))
    z["conv"] = zeroed(np.asarray(z["conv"]), ..., [1, 4])

    def function(params, x):
        params = gates.apply(params, z)
        x = jax.nn.relu(convolve(x, params["conv"]) * 1.5)
        return x.reshape(x.shape[0], -1) @ params["dense"]

    small = shrink(Network(function, params), example(2, 4, 4, 2))
    assert small.params["conv"].shape == (3, 3, 2, 4)
    assert small.params["dense"].shape == (64, 3)
    assert_same(small, function, params, normal(rng, 3, 4, 4, 2))


def test_a_loop_that_feeds_only_itself_goes():
    """Stream channel 0 is read by a unit that writes to nothing but that channel."""
    rng = np.random.default_rng(0)
    params = {
        "embed": normal(rng, 3, 4),
        "up": np.eye(4, 2, dtype=np.float32),
        "down": np.float32([[1, 0, 0, 0], [0, 0, 1, 0]]),
        "out": zeroed(normal(rng, 4, 2), 0),
    }

    def function(params, x):
        x = x @ params["embed"]
        for _ in range(2):
            x = x + jax.nn.relu(x @ params["up"]) @ params["down"]
        return x @ params["out"]

    small = shrink(Network(function, params), example(2, 3))
    assert shapes(small.params) == [(1, 3), (3, 3), (3, 2), (3, 1)]
    assert_same(small, function, params, normal(rng, 4, 3))


def test_a_dead_network_keeps_one_unit_a_layer():
    rng = np.random.default_rng(0)
    function, params = forward(lambda: LeNet300(units=(9, 8), rngs=nnx.Rngs(0)), rng)
    params = pruned(params, rng, 0.0)
    small = shrink(Network(function, params), example(2, 784))
    assert live_units(small.params, LENET300_LAYERS)[-1] == 10
    assert shapes(small.params) == [(1,), (1, 1), (1,), (1, 1), (10,), (1, 10)]
    assert_same(small, function, params, normal(rng, 3, 784))
    assert_idempotent(small, example(2, 784))


# Forms of functions


def test_flax_linen_and_several_inputs_and_outputs():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, y):
            x = nn.relu(nn.Dense(12)(x))
            y = nn.relu(nn.Dense(12)(y))
            return {"sum": nn.Dense(3)(x + y), "product": nn.Dense(2)(x * y)}

    rng = np.random.default_rng(0)
    x, y = normal(rng, 4, 5), normal(rng, 4, 7)
    params = jax.eval_shape(Net().init, jax.random.key(0), x, y)
    params = jax.tree.map(lambda leaf: normal(rng, *leaf.shape), params)
    params = pruned(params, rng, 0.15)
    small = shrink(Network(Net().apply, params), x, y)
    assert small.params["params"]["Dense_0"]["kernel"].shape[1] < 12
    assert_same(small, Net().apply, params, normal(rng, 6, 5), normal(rng, 6, 7))


def test_the_smaller_function_is_differentiated_and_mapped():
    rng = np.random.default_rng(0)
    params = [
        {"kernel": zeroed(normal(rng, 6, 5), slice(None), [1, 2]), "bias": normal(rng, 5)},
        {"kernel": normal(rng, 5, 4), "bias": normal(rng, 4)},
        {"kernel": normal(rng, 4, 2)},
    ]
    small = shrink(Network(mlp, params), example(2, 6))
    x = normal(rng, 3, 6)
    whole = jax.jit(jax.grad(lambda p: (mlp(p, x) ** 2).sum()))(params)
    found = jax.jit(jax.grad(lambda p: (small.function(p, x) ** 2).sum()))(small.params)
    kept = small.kept["1/kernel"][0]
    np.testing.assert_array_equal(kept, [0, 3, 4])
    np.testing.assert_allclose(found[1]["kernel"], whole[1]["kernel"][kept], rtol=1e-4, atol=1e-5)
    mapped = jax.jit(jax.vmap(small.function, (None, 0)))(small.params, np.stack([x, 2 * x]))
    np.testing.assert_allclose(mapped[1], mlp(params, 2 * x), atol=1e-5)


def test_bfloat16():
    rng = np.random.default_rng(0)
    params = [
        {"kernel": zeroed(normal(rng, 6, 5), slice(None), 1), "bias": normal(rng, 5)},
        {"kernel": normal(rng, 5, 4), "bias": normal(rng, 4)},
        {"kernel": normal(rng, 4, 2)},
    ]
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), params)
    small = shrink(Network(mlp, params), jax.ShapeDtypeStruct((2, 6), jnp.bfloat16))
    assert {leaf.dtype for leaf in jax.tree.leaves(small.params)} == {jnp.dtype(jnp.bfloat16)}
    assert small.params[0]["kernel"].shape == (6, 4)
    x = jnp.asarray(normal(rng, 3, 6), jnp.bfloat16)
    expected = mlp(params, x).astype(np.float32)
    np.testing.assert_allclose(small.function(small.params, x), expected, atol=0.06)


def test_any_batch_size_in_one_exported_program():
    rng = np.random.default_rng(0)
    params = {
        "conv": zeroed(normal(rng, 3, 3, 1, 5), ..., 1),
        "bias": normal(rng, 5),
        "dense": zeroed(normal(rng, 80, 3), slice(10, 30)) / np.float32(9),
    }

    def function(params, x):
        x = jnp.tanh(convolve(x, params["conv"]) + params["bias"])
        return x.reshape(x.shape[0], -1) @ params["dense"] + jnp.asarray([0.0, 1.0, 2.0])

    small = shrink(Network(function, params), example(2, 4, 4, 1))
    assert small.params["dense"].shape == (48, 3)
    (batch,) = jax.export.symbolic_shape("batch")
    exported = jax.export.export(jax.jit(lambda x: small.function(small.params, x)))(
        jax.ShapeDtypeStruct((batch, 4, 4, 1), jnp.float32)
    )
    for size in (1, 4):
        x = normal(rng, size, 4, 4, 1)
        np.testing.assert_allclose(exported.call(x), function(params, x), atol=1e-5)


# Refusals


def sort_inside(params, x):
    return jnp.sort(x @ params["a"]) @ params["b"]


def unbounded(params, x):
    step = lambda h: 2 * jnp.tanh(h @ params["a"])  # noqa: E731
    return lax.while_loop(lambda h: (abs(h) < 1).all(), step, x) @ params["b"]


@pytest.mark.parametrize(
    ("function", "operation"),
    [
        (sort_inside, r"sort \(over 4 units after a\)"),
        (unbounded, r"while \(over 4 units after a\)"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(function, operation):
    rng = np.random.default_rng(0)
    a = zeroed(normal(rng, 4, 4), slice(None), 1)
    params = {"a": a, "b": normal(rng, 4, 3)}
    with pytest.raises(ValueError, match=operation):
        shrink(Network(function, params), example(2, 4))
    small = shrink(Network(function, params), example(2, 4), keep_unsupported=True)
    assert operation.split(" ")[0] in small.unsupported
    assert_same(small, function, params, normal(rng, 2, 4))


def test_a_softmax_at_the_end_is_no_matter():
    rng = np.random.default_rng(0)
    params = {"a": zeroed(normal(rng, 4, 6), slice(None), 1), "b": normal(rng, 6, 3)}

    def function(params, x):
        return jax.nn.softmax(jax.nn.relu(x @ params["a"]) @ params["b"])

    small = shrink(Network(function, params), example(2, 4))
    assert shapes(small.params) == [(4, 5), (5, 3)]
    assert small.unsupported == {}
    assert_same(small, function, params, normal(rng, 2, 4))


def test_units_between_mixed_ones_still_go():
    """A layer norm keeps its stream whole; the hidden units of a branch go."""
    rng = np.random.default_rng(0)
    params = {
        "up": zeroed(normal(rng, 4, 6), slice(None), [0, 5]),
        "down": zeroed(normal(rng, 6, 4), 2),
    }

    def function(params, x):
        normed = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x + jax.nn.relu(normed @ params["up"]) @ params["down"]

    small = shrink(
        Network(function, params), example(2, 4)
    )  # the stream is the output, whole anyway
    assert shapes(small.params) == [(3, 4), (4, 3)]
    assert_same(small, function, params, normal(rng, 3, 4))


def test_bad_arguments_are_named():
    rng = np.random.default_rng(0)
    params = [{"kernel": zeroed(normal(rng, 3, 2), slice(None), 0), "bias": jnp.zeros(2)}]
    params.append({"kernel": normal(rng, 2, 2)})
    with pytest.raises(TypeError, match="params must hold concrete arrays; 0/bias is"):
        jax.jit(lambda p: shrink(Network(mlp, p), example(2, 3)).params)(params)
    small = shrink(Network(mlp, params), example(2, 3))
    with pytest.raises(ValueError, match="inputs must have the shapes of the examples"):
        small.function(small.params, jnp.zeros((2, 4)))
    with pytest.raises(ValueError, match="params must have the shapes that shrink left"):
        small.function(params, jnp.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"\['float32'\] \(those of the examples are \['int32'\]"):
        shrink(Network(mlp, params), jnp.ones((2, 3), jnp.int32))(jnp.zeros((2, 3)))
    with pytest.raises(TypeError, match="positional argument") as caught:
        shrink(Network(lambda x: x, params), example(2, 3))
    assert "It must be a pure function of arrays" in "".join(caught.value.__notes__)
