import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from sparsejax.deploy import shrink
from sparsejax.graph import find_contractions, trace_batch
from tests.graph.rules.brute_force import check, draw, network

RNG = np.random.default_rng(0)


def sparse(*shape):
    """Weights with rows and columns of zeros."""
    array = RNG.normal(size=shape).astype(np.float32)
    array[RNG.random(shape[0]) < 0.3] = 0
    array[..., RNG.random(shape[-1]) < 0.3] = 0
    return array


MATRIX, TENSOR = sparse(5, 6), sparse(5, 3, 4)


@pytest.mark.parametrize(
    "operation",
    [
        lambda h: jnp.tanh(h @ MATRIX),
        lambda h: lax.dot_general(h, MATRIX.T.copy(), (((2,), (1,)), ((), ()))),
        lambda h: jnp.einsum("bpu,uhk->bphk", h, TENSOR),
        lambda h: lax.dot_general(MATRIX, h, (((0,), (2,)), ((), ()))).transpose(1, 2, 0),
        lambda h: h @ MATRIX[:, 0],
    ],
)
@pytest.mark.parametrize("seed", range(2))
def test_known_weights(operation, seed):
    check(operation, (2, 5), seed, complete=False)


def test_weights_over_positions():
    """Positions are summed over: those with zero weights are not read."""
    check(lambda h: jnp.einsum("bpu,pq->bqu", h, MATRIX), (5, 3), complete=False)


@pytest.mark.parametrize(
    "operation",
    [
        lambda h: h @ h.swapaxes(1, 2),
        lambda h: jnp.einsum("bpu,pu->bp", h, np.ones((2, 5), np.float32)),
    ],
)
def test_other_products_are_unsupported(operation):
    params, x = draw(np.random.default_rng(0), operation, (2, 5))
    with pytest.raises(ValueError, match=r"dot_general \(over"):
        shrink(network(operation, params), x)
    small = shrink(network(operation, params), x, keep_unsupported=True)
    np.testing.assert_allclose(small(x), network(operation, params)(x), rtol=1e-5, atol=1e-5)


def test_a_contraction_says_where_its_weights_are():
    x = jax.ShapeDtypeStruct((2, 3, 5), jnp.float32)
    for function, written, result_axes in (
        (lambda p, x: jnp.einsum("bpu,uhk->bphk", x, p), (1, 2), (2, 3)),
        (lambda p, x: lax.dot_general(p, x, (((0,), (2,)), ((), ()))), (1, 2), (0, 1)),
    ):
        graph = trace_batch(function, TENSOR, [x]).graph
        (found,) = find_contractions(graph).values()
        assert (found.computed, found.weights) == (graph.inputs[0], graph.leaves[0])
        assert (found.axis, found.read) == (2, 0)
        assert (found.written, found.result_axes) == (written, result_axes)
        assert not found.padded
