import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sparsejax.inspection import live_unit_masks, live_units
from sparsejax.models import LENET300_LAYERS, LeNet300


def dense(*kernels, bias=0.0):
    """A chain of dense layers; ``bias`` None leaves biases out."""
    params = {}
    for number, kernel in enumerate(kernels):
        params[f"l{number}"] = {"kernel": jnp.asarray(kernel, jnp.float32)}
        if bias is not None:
            params[f"l{number}"]["bias"] = jnp.full(len(kernel[0]), bias)
    return params, [f"l{number}" for number in range(len(kernels))]


def test_a_dense_network_is_all_alive():
    params = nnx.split(LeNet300(rngs=nnx.Rngs(0)), nnx.Param, ...)[1]
    assert live_units(params, LENET300_LAYERS) == [784, 300, 100, 10]


def test_removal_runs_to_a_fixed_point_in_both_directions():
    # Input 0 -> a only; a -> b only; b -> nothing: all three go, one after the other.
    # Unit d of layer 1 reads nothing, so e, which reads d alone, goes too; output 1 stays.
    first = [[1, 0, 0], [0, 1, 0]]  # columns: a, c, d
    second = [[1, 0, 0], [0, 1, 0], [0, 0, 1]]  # columns: b, kept, e
    third = [[0, 0], [1, 0], [0, 1]]
    params, layers = dense(first, second, third, bias=0.5)
    assert live_units(params, layers) == [1, 1, 1, 2]
    masks = live_unit_masks(params, layers)
    np.testing.assert_array_equal(masks[0], [False, True])
    np.testing.assert_array_equal(masks[1], [False, True, False])
    np.testing.assert_array_equal(masks[2], [False, True, False])


def test_a_constant_that_nothing_can_absorb_stays():
    first, second = [[1, 0]], [[1], [1]]  # the second hidden unit reads nothing
    with_bias, layers = dense(first, second, bias=0.5)
    assert live_units(with_bias, layers) == [1, 1, 1]
    no_absorber = {"l0": with_bias["l0"], "l1": {"kernel": with_bias["l1"]["kernel"]}}
    assert live_units(no_absorber, layers) == [1, 2, 1]
    without, layers = dense(first, second, bias=None)
    assert live_units(without, layers) == [1, 1, 1]


def fixed_point(kernels):
    """Dead units taken out one layer at a time; constants are absorbed."""
    links = [kernel != 0 for kernel in kernels]
    live = [np.ones(link.shape[0], bool) for link in links] + [np.ones(links[-1].shape[1], bool)]
    while True:
        before = sum(mask.sum() for mask in live)
        for below, link in enumerate(links):
            carrying = link & live[below][:, None] & live[below + 1][None, :]
            live[below] &= carrying.any(axis=1)
            if below + 1 < len(links):
                live[below + 1] &= carrying.any(axis=0)
        if sum(mask.sum() for mask in live) == before:
            return live


@pytest.mark.parametrize("bias", [0.5, None])
@pytest.mark.parametrize("share", [0.02, 0.05, 0.1, 0.2])
def test_it_is_the_fixed_point_of_taking_out(bias, share):
    for seed in range(10):
        rng = np.random.default_rng(seed)
        shapes = itertools.pairwise(rng.integers(1, 30, 6))
        kernels = [np.float32(rng.random(shape) < share) for shape in shapes]
        params, layers = dense(*kernels, bias=bias)
        masks = zip(live_unit_masks(params, layers), fixed_point(kernels), strict=True)
        for found, expected in masks:
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("bias", [0.5, None])
def test_a_network_without_a_path_has_no_live_units(bias):
    """Its constants, however large they would be, are absorbed one after another."""
    kernels = [np.zeros((5, 30)), *[np.ones((30, 30))] * 30, np.ones((30, 2))]
    params, layers = dense(*kernels, bias=bias)
    assert live_units(params, layers) == [0] * 32 + [2]
    if bias:
        del params["l31"]["bias"]
        assert live_units(params, layers) == [0] * 31 + [30, 2]


def test_the_live_network_computes_the_same():
    """Deleting dead units and folding their constants into the next biases changes nothing."""
    rng = np.random.default_rng(0)
    sizes = [30, 20, 15, 4]
    kernels = [
        rng.normal(size=shape) * (rng.random(shape) < 0.06) for shape in itertools.pairwise(sizes)
    ]
    biases = [rng.normal(size=size) for size in sizes[1:]]
    layers = ["a", "b", "c"]
    params = {
        layer: {"kernel": jnp.asarray(k, jnp.float32), "bias": jnp.asarray(b)}
        for layer, k, b in zip(layers, kernels, biases, strict=True)
    }
    masks = live_unit_masks(params, layers)
    assert any(not mask.all() for mask in masks[1:-1])
    x = rng.normal(size=(50, 30))

    def forward(x, kernels, biases):
        for layer, (kernel, bias) in enumerate(zip(kernels, biases, strict=True)):
            x = x @ kernel + bias
            x = np.maximum(x, 0) if layer < 2 else x
        return x

    folded = [bias.copy() for bias in biases]
    reading = [kernel.copy() for kernel in kernels]
    for layer in (0, 1):  # constants of dead units move on, layer by layer
        kernel = reading[layer] * masks[layer][:, None]
        dead = ~masks[layer + 1]
        constant = np.maximum(folded[layer], 0)
        silent = dead & ~(kernel != 0).any(axis=0)
        folded[layer + 1] = folded[layer + 1] + constant[silent] @ kernels[layer + 1][silent]
    small_kernels = [
        kernel[masks[layer]][:, masks[layer + 1]] for layer, kernel in enumerate(kernels)
    ]
    small_biases = [bias[masks[layer + 1]] for layer, bias in enumerate(folded)]
    np.testing.assert_allclose(
        forward(x[:, masks[0]], small_kernels, small_biases), forward(x, kernels, biases)
    )


def test_convolutions_and_the_flattening_after_them():
    conv = np.zeros((3, 3, 2, 4), np.float32)
    conv[1, 1, 0, [0, 2]] = 1  # input channel 1 is dead; channels 1 and 3 read nothing
    after = np.zeros((2 * 2 * 4, 3), np.float32)  # 2 x 2 positions, channels last
    after[2 * 4 + 2, 1] = 1  # position 2, channel 2
    params = {
        "conv": {"kernel": conv, "bias": np.ones(4)},
        "out": {"kernel": after, "bias": np.ones(3)},
    }
    assert live_units(params, ["conv", "out"]) == [1, 1, 3]


def test_bad_layers_are_named():
    params, _ = dense(np.ones((3, 2)), np.ones((2, 1)))
    with pytest.raises(ValueError, match="layers names 'l7'; params hold no l7/kernel"):
        live_units(params, ["l0", "l7"])
    with pytest.raises(ValueError, match="reads 3 inputs; the layer before it has 2 units"):
        live_units(params, ["l0", "l0"])
    for first, second in (((4, 1), (5, 2)), ((4, 2), (4, 2))):
        params, layers = dense(np.ones(first), np.ones(second))
        with pytest.raises(ValueError, match=f"reads {second[0]} inputs; the layer before it has"):
            live_units(params, layers)
    conv = {"l0": {"kernel": np.ones((3, 3, 1, 1))}, "l1": {"kernel": np.ones((3, 3, 4, 2))}}
    with pytest.raises(ValueError, match="reads 4 inputs; the layer before it has 1 units"):
        live_units(conv, ["l0", "l1"])
    with pytest.raises(ValueError, match="at least one layer"):
        live_units(params, [])
    with pytest.raises(TypeError, match=r"layers must be a sequence of names, such as \['l0'\]"):
        live_units(params, "l0")
