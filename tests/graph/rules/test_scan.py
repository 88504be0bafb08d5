import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from sparsejax.deploy import Network, expand, shrink
from tests.graph.rules.brute_force import check, check_constants, normal

RNG = np.random.default_rng(0)
SPARSE = np.where(RNG.random((5, 5)) < 0.4, normal(RNG, 5, 5), np.float32(0))


def recurrence(step):
    """The last carry of a scan over positions, and all of its results."""

    def operation(h):
        last, every = lax.scan(step, jnp.zeros_like(h[:, 0]), h.swapaxes(0, 1))
        return last, every.swapaxes(0, 1)

    return operation


@pytest.mark.parametrize(
    ("step", "reverse"),
    [
        (lambda c, x: (jnp.tanh(c @ SPARSE + x), c), False),
        (lambda c, x: (c + jnp.square(x), x @ SPARSE[:, 1:]), True),
    ],
)
def test_recurrences(step, reverse):
    def operation(h):
        every = h.swapaxes(0, 1)
        last, found = lax.scan(step, jnp.zeros_like(h[:, 0]), every, reverse=reverse)
        return last, found.swapaxes(0, 1)

    check(operation, (3, 5), whole=(1,), complete=False)


@pytest.mark.parametrize(
    "step",
    [
        lambda c, x: (c + 1, c * x),  # constant in each step, and another number in each
        lambda c, x: (jnp.where(c == 0, 2.0, 3.0) * (x == 9), c + x),
        lambda c, x: (x, c),  # zero in the first step alone
        lambda c, x: (c * x, c + x * x),
    ],
)
def test_what_is_constant_in_every_step(step):
    check_constants(recurrence(step), (3, 5), 0, complete=False)


def layers(params, x):
    """Layers of hidden units beside a residual stream."""

    def layer(stream, kernels):
        up, down = kernels
        return stream + jax.nn.relu(stream @ up) @ down, None

    return lax.scan(layer, x @ params["in"], params["layers"])[0] @ params["out"]


def network():
    """A hidden unit of each layer is dead: it is zero, or nothing reads it, or both."""
    up, down = normal(RNG, 3, 6, 5), normal(RNG, 3, 5, 6)
    up[0, :, 1] = down[1, 1] = up[2, :, 1] = down[2, 1] = 0
    down[:, 3] = 0
    up[0, :, 4] = down[1, 4] = 0  # alive in the last layer
    params = {"in": normal(RNG, 4, 6), "layers": (up, down), "out": normal(RNG, 6, 2)}
    return Network(layers, params), normal(RNG, 3, 4)


def test_units_that_are_dead_in_every_layer_leave():
    whole, x = network()
    small = shrink(whole, x)
    np.testing.assert_array_equal(small.kept["layers/0"][2], [0, 2, 4])
    np.testing.assert_array_equal(small.kept["layers/1"][1], [0, 2, 4])
    for inputs in (x, x[:1]):
        np.testing.assert_allclose(small(inputs), whole(inputs), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(expand(small)(x), whole(x), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(jax.vmap(small)(x[:, None])[:, 0], whole(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("gone", ["zero", "unread"])
def test_channels_of_the_stream_that_are_dead_in_every_layer_leave(gone):
    whole, x = network()
    params = jax.tree.map(np.copy, whole.params)
    up, down = params["layers"]
    if gone == "zero":
        params["in"][:, 2] = down[:, :, 2] = 0
    else:
        params["out"][2] = up[:, 2] = 0
    small = shrink(whole.with_params(params), x)
    assert small.params["layers"][0].shape == (3, 5, 3)
    np.testing.assert_allclose(small(x), layers(params, x), rtol=1e-4, atol=1e-5)
    up[1, 2] = down[1, :, 2] = 1
    params["in"][:, 2] = params["out"][2] = 1
    assert shrink(whole.with_params(params), x).params["in"].shape == (4, 6)


def test_loops_in_loops_and_indices_of_each_step():
    params = {"w": normal(RNG, 2, 3, 4, 4), "o": normal(RNG, 4, 2)}
    params["w"][..., 1] = params["w"][..., 1, :] = 0

    def function(params, x):
        def outer(h, kernels):
            inner = lambda h, kernel: (jnp.tanh(h @ kernel), h.sum())  # noqa: E731
            h, sums = lax.scan(inner, h, kernels)
            return h + sums[0], jnp.take(h, jnp.asarray([0, 2, 3]), axis=1)

        h, parts = lax.scan(outer, x, params["w"])
        by_index = lax.fori_loop(0, 2, lambda i, h: h @ jnp.asarray(params["w"])[i, 0], x)
        return (h + parts.sum((0, 2))[:, None] + by_index) @ params["o"]

    x = normal(RNG, 3, 4)
    small = shrink(Network(function, params), x)
    assert small.params["w"].shape == (2, 3, 4, 4)  # of x, which is summed, unit 1 stays
    np.testing.assert_allclose(small(x), function(params, x), rtol=1e-4, atol=1e-5)


def test_a_refusal_in_a_loop_names_the_parameter_of_the_loop():
    params = {"layers": {"w": normal(RNG, 2, 4, 4)}, "o": normal(RNG, 4, 2)}

    def function(params, x):
        step = lambda h, w: (jnp.sort(h @ w), None)  # noqa: E731
        return lax.scan(step, x, params["layers"]["w"])[0] @ params["o"]

    x = normal(RNG, 3, 4)
    with pytest.raises(ValueError, match=r"sort \(over 4 units after layers/w\)"):
        shrink(Network(function, params), x)
    small = shrink(Network(function, params), x, keep_unsupported=True)
    np.testing.assert_allclose(small(x), function(params, x), rtol=1e-4, atol=1e-5)
