import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from sparsejax.deploy import shrink
from tests.graph.rules.brute_force import check, draw, network


@pytest.mark.parametrize(
    "operation",
    [
        lambda h: h[:, :2] + lax.sort(h, dimension=1)[:, 1:],
        lambda h: h + lax.sort([h, h[:, ::-1]], dimension=1, num_keys=1)[1],
        lambda h: lax.top_k(h.swapaxes(1, 2), 2).pop(0),
    ],
)
def test_positions_change_their_order_and_units_leave(operation):
    check(operation, (3, 6), whole=(1,), onnx=False)


def test_units_that_change_their_order_are_unsupported():
    params, x = draw(np.random.default_rng(0), jnp.sort, (5,))
    with pytest.raises(ValueError, match=r"sort \(over 5 units after"):
        shrink(network(jnp.sort, params), x)
    small = shrink(network(jnp.sort, params), x, keep_unsupported=True)
    np.testing.assert_allclose(small(x), network(jnp.sort, params)(x), rtol=1e-5, atol=1e-5)


def test_units_of_which_the_largest_are_chosen_stay():
    """As experts do; their indices are computed."""
    operation = lambda h: lax.top_k(h, 2)[0]  # noqa: E731
    params, x = draw(np.random.default_rng(0), operation, (5,))
    small = shrink(network(operation, params), x)
    assert small.params["w"].shape == (4, 5)
    np.testing.assert_allclose(small(x), network(operation, params)(x), rtol=1e-5, atol=1e-5)
