import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.deploy import shrink
from tests.graph.rules.brute_force import check, draw, network

INDICES = jnp.asarray([3, 0, 0, 2])


@pytest.mark.parametrize(
    "operation",
    [
        lambda h: h[:, :, INDICES],
        lambda h: h[:, INDICES % 3],
        lambda h: jnp.take(h, 2, axis=2),
        lambda h: jnp.take(h, -1, axis=1),
        lambda h: jnp.take(h, 9, axis=2, mode="clip"),
    ],
)
def test_one_index_and_several(operation):
    check(operation, (3, 5), complete=operation(jnp.zeros((1, 3, 5))).ndim == 3)


def test_out_of_bounds_is_unsupported():
    operation = lambda h: h[:, jnp.asarray([1, 7])]  # noqa: E731
    params, x = draw(np.random.default_rng(0), operation, (5,))
    with pytest.raises(ValueError, match=r"gather \(over 5 units after"):
        shrink(network(operation, params), x)
