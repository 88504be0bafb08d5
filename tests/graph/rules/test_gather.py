import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.deploy import Network, shrink
from tests.graph.rules.brute_force import check

INDICES = jnp.asarray([3, 0, 0, 2])
TABLE = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)


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


def index(h):
    return (h[:, 0, 0] > 0).astype(jnp.int32)


@pytest.mark.parametrize(
    ("operation", "whole"),
    [
        (lambda h: jnp.asarray(TABLE)[(h > 0).astype(jnp.int32)], ()),
        (lambda h: jnp.take(h, index(h)[0] + 1, axis=1), (1,)),
        (lambda h: jax.vmap(lambda one, i: one[i])(h, index(h)), (1,)),
        (lambda h: jnp.take(h, jnp.asarray([1, 7]), axis=1, mode="clip"), (1,)),
    ],
)
def test_computed_indices_keep_what_they_may_read(operation, whole):
    """Also those out of bounds, which are clamped or filled in."""
    check(operation, (3, 5), whole=whole, complete=False, onnx=False)


@pytest.mark.parametrize(("fill", "left"), [(None, 3), (0.0, 3), (2.0, 4)])
def test_units_of_an_embedding_leave(fill, left):
    params = {"table": np.array(TABLE), "o": np.ones((4, 2), np.float32)}
    params["table"][:, 1] = 0
    network = Network(
        lambda p, i: jnp.take(p["table"], i, axis=0, fill_value=fill) @ p["o"], params
    )
    tokens = np.asarray([[0, 1, 1], [1, 0, 0]])
    small = shrink(network, tokens)
    assert small.params["table"].shape == (2, left)
    np.testing.assert_allclose(small(tokens), network(tokens), rtol=1e-6)
