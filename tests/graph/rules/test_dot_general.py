import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from sparsejax.deploy import Network, shrink
from sparsejax.graph import find_contractions, trace_batch
from tests.graph.rules.brute_force import check

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
    ("operation", "shape"),
    [
        (lambda h: h @ h.swapaxes(1, 2), (2, 5)),
        (lambda h: jnp.tanh(h) @ (h @ (MATRIX[:, :5] @ MATRIX[:, 1:].T)).swapaxes(1, 2), (2, 5)),
        (lambda h: jnp.einsum("bpu,puk->bpk", h, TENSOR.transpose(1, 0, 2)), (3, 5)),
        (lambda h: jnp.einsum("bhk,hkd->bd", h, TENSOR), (5, 3)),
        (lambda h: jnp.einsum("bpu,pu->bp", h, TENSOR[:, :, 1]), (5, 3)),
        (lambda h: jax.nn.softmax(h @ h.swapaxes(1, 2)) @ h, (2, 4)),
    ],
)
def test_other_products(operation, shape):
    """Of two computed factors, over several dimensions, with a batch, and of two known ones."""
    check(operation, shape, complete=False, onnx=False)


def test_a_unit_goes_that_is_zero_in_one_factor_or_in_the_other():
    query, key = np.ones((4, 6), np.float32), np.ones((4, 6), np.float32)
    query[:, 1] = key[:, 4] = 0
    params = {"query": query, "key": key}
    small = shrink(
        Network(lambda p, x: (x @ p["query"]) @ (x @ p["key"]).swapaxes(1, 2), params),
        np.ones((2, 3, 4), np.float32),
    )
    for name in params:
        np.testing.assert_array_equal(small.kept[name][1], [0, 2, 3, 5])


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
