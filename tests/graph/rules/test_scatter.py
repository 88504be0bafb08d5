import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from sparsejax.deploy import Network, shrink
from tests.graph.rules.brute_force import check

OPERATIONS = {
    "sum over edges": lambda h: jax.vmap(
        lambda h: jax.ops.segment_sum(h[np.array([0, 1, 2, 0])], np.array([1, 2, 0, 2]), 3)
    )(h),
    "max over edges": lambda h: jnp.asarray(h).at[:, np.array([0, 1])].max(h[:, 1:] - 1),
    "set": lambda h: jnp.asarray(h).at[:, 1].set(h[:, 0]),
    "cache": lambda h: lax.dynamic_update_slice(h, h[:, :1], (0, 1, 0)),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_slices_are_written_at_positions_and_units_leave(name):
    check(OPERATIONS[name], (3, 6), whole=(1,), complete=False, onnx=False)


def test_units_that_are_indexed_are_kept():
    w, o = np.eye(4, 6, dtype=np.float32), np.ones((6, 2), np.float32)
    o[3] = 0
    written = lambda h: jnp.asarray(h).at[:, 2].set(1.0)  # noqa: E731
    network = Network(lambda p, x: written(x @ p["w"]) @ p["o"], {"w": w, "o": o})
    x = np.ones((3, 4), np.float32)
    small = shrink(network, x)
    assert small.params["w"].shape == (4, 6)
    np.testing.assert_allclose(small(x[:1]), network(x[:1]))


def test_constants_of_both_arrays_must_be_equal():
    """Unit 0 is one number, unit 1 two, and unit 2 zero before and after."""
    params = {"w": np.zeros((4, 3), np.float32), "o": np.ones((3, 2), np.float32)}
    params |= {"b": np.float32([2, 3, 0]), "c": np.zeros(2, np.float32)}

    def function(params, x):
        h = x @ params["w"] + params["b"]
        h = jnp.stack([h, h], 1).at[:, 0].set(h * jnp.float32([1, 2, 1]))
        return h.sum(1) @ params["o"] + params["c"]

    x = np.ones((3, 4), np.float32)
    small = shrink(Network(function, params), x)
    np.testing.assert_allclose(small(x), function(params, x))
    assert small.params["b"].shape == (1,)
