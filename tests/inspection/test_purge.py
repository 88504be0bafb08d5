import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax import gates
from sparsejax.gates import hard_concrete, per_output
from sparsejax.inspection import live_units, purge

LAYERS = ("first", "second", "third")


def sparse(rng, shape, share):
    return rng.normal(size=shape) * (rng.random(shape) < share)


def dense_network(rng, sizes, share):
    return {
        name: {
            "kernel": sparse(rng, (a, b), share).astype(np.float32),
            "bias": sparse(rng, b, 0.5).astype(np.float32),
        }
        for name, a, b in zip(LAYERS, sizes[:-1], sizes[1:], strict=True)
    }


def dense_outputs(layers, x, activation):
    for name in LAYERS:
        x = x @ layers[name]["kernel"] + layers[name]["bias"]
        x = activation(x) if name != LAYERS[-1] else x
    return x


@pytest.mark.parametrize("activation", [jax.nn.relu, jnp.tanh])
@pytest.mark.parametrize("share", [0.02, 0.08, 0.3, 1.0])
def test_the_smaller_network_computes_the_same(activation, share):
    for seed in range(8):
        rng = np.random.default_rng(seed)
        params = dense_network(rng, (30, 20, 12, 5), share)
        small = purge(params, LAYERS, activation)
        assert [len(kept) for kept in small.units] == live_units(params, LAYERS)
        for place, name in enumerate(LAYERS):
            shape = (len(small.units[place]), len(small.units[place + 1]))
            assert small.layers[name]["kernel"].shape == shape
        x = rng.normal(size=(7, 30)).astype(np.float32)
        np.testing.assert_allclose(
            dense_outputs(small.layers, x[:, small.units[0]], activation),
            dense_outputs(params, x, activation),
            atol=2e-5,
        )


def test_constants_travel_upwards():
    """A unit that reads nothing puts out its bias, and one that reads only it a constant too."""
    params = {
        "first": {"kernel": np.float32([[1, 0], [2, 0]]), "bias": np.float32([0.5, 2.0])},
        "second": {"kernel": np.float32([[1, 0], [0, 3]]), "bias": np.float32([0.0, 1.0])},
        "third": {"kernel": np.float32([[1], [10]]), "bias": np.float32([0.25])},
    }
    small = purge(params, LAYERS)
    assert [len(kept) for kept in small.units] == [2, 1, 1, 1]
    np.testing.assert_allclose(small.layers["third"]["bias"], [0.25 + 10 * (3 * 2 + 1)])


def convolutional(rng, share):
    return {
        "first": {
            "kernel": sparse(rng, (3, 3, 2, 6), share).astype(np.float32),
            "bias": rng.normal(size=6).astype(np.float32),
        },
        "second": {
            "kernel": sparse(rng, (3, 3, 6, 8), share).astype(np.float32),
            "bias": rng.normal(size=8).astype(np.float32),
        },
        "third": {
            "kernel": sparse(rng, (4 * 4 * 8, 5), 0.1).astype(np.float32),
            "bias": rng.normal(size=5).astype(np.float32),
        },
    }


def convolutional_outputs(layers, x):
    for name in ("first", "second"):
        x = jax.lax.conv_general_dilated(
            x, layers[name]["kernel"], (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = jax.nn.relu(x + layers[name]["bias"])
    x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return x.reshape(len(x), -1) @ layers["third"]["kernel"] + layers["third"]["bias"]


def test_channels_closed_by_gates_go_with_all_that_they_feed():
    """After gates per output channel nothing constant is left: the biases are gated too."""
    rng = np.random.default_rng(0)
    params = jax.tree.map(jnp.asarray, convolutional(rng, 1.0))
    convolutions = lambda path, leaf: leaf.ndim == 4  # noqa: E731
    kinds = hard_concrete(grouping=per_output, where=convolutions)
    z = kinds.median(kinds.init(jax.random.key(0), params))
    for name, closed in (("first", [0, 3]), ("second", [1, 2, 6])):
        z[name]["kernel"] = z[name]["kernel"].at[..., jnp.asarray(closed)].set(0.0)
    gated = gates.apply(params, z)
    small = purge(gated, LAYERS)
    assert [len(kept) for kept in small.units] == [2, 4, 5, 5]
    np.testing.assert_array_equal(small.units[2], [0, 3, 4, 5, 7])
    assert small.layers["third"]["kernel"].shape == (4 * 4 * 5, 5)
    x = rng.normal(size=(3, 12, 12, 2)).astype(np.float32)
    np.testing.assert_allclose(
        convolutional_outputs(small.layers, x), convolutional_outputs(gated, x), atol=1e-4
    )


def test_a_constant_before_a_convolution_is_refused():
    params = convolutional(np.random.default_rng(0), 1.0)
    params["first"]["kernel"][..., 2] = 0
    params["first"]["bias"][2] = 1.0
    with pytest.raises(ValueError, match="names the convolution 'second', which reads units of"):
        purge(params, LAYERS)


def test_an_unknown_layer_is_named():
    with pytest.raises(ValueError, match="layers names 'fourth'"):
        purge(convolutional(np.random.default_rng(0), 1.0), ("first", "fourth"))
