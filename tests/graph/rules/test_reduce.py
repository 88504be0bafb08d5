import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from sparsejax.deploy import Network, shrink
from tests.graph.rules.brute_force import check


@pytest.mark.parametrize("name", ["sum", "max", "min"])
@pytest.mark.parametrize("axis", [1, (1, 2)])
def test_over_positions(name, axis):
    """Positions are inputs, which no weight knows, and each of them is read."""
    whole = (1,) if axis == 1 else (1, 2)
    check(lambda h: getattr(h, name)(axis), (3, 2, 5), whole=whole)


def rms_norm(h):
    return h * lax.rsqrt((h * h).mean(2, keepdims=True) + 1e-3)


@pytest.mark.parametrize(
    "operation", [lambda h: h.sum(2), lambda h: h.max(2), rms_norm, jax.nn.softmax]
)
def test_over_units(operation):
    """Each unit changes the result; those that are constantly zero leave a sum as it is."""
    check(operation, (3, 5), complete=False, onnx=False)


@pytest.mark.parametrize(
    ("operation", "left"),
    [
        (lambda h: h.sum(1), 3),
        (lambda h: h / ((h * h).mean(1, keepdims=True) + 1e-3) ** 0.5, 3),
        (lambda h: h / (0.1 + abs(h).sum(1, keepdims=True)), 3),
        (lambda h: h / h.sum(1, keepdims=True), 5),  # the divisor may be zero
        (lambda h: (h > -np.inf).any(1) * h.min(1), 5),
        (lambda h: jnp.where(np.arange(5) < 2, h, -np.inf).max(1), 2),
        (lambda h: jax.nn.softmax(h, axis=1), 5),
    ],
)
def test_units_of_the_neutral_number_leave(operation, left):
    w = np.ones((4, 5), np.float32)
    w[:, 2:4] = 0
    b = np.zeros(5, np.float32)
    network = Network(
        lambda p, x: (operation(x @ p["w"] + b).reshape(len(x), -1) ** 2).sum(1), {"w": w}
    )
    x = np.asarray([[1, 2, 3, 4], [-1, 3, 2, -5]], np.float32)
    small = shrink(network, x)
    assert small.params["w"].shape == (4, left)
    np.testing.assert_allclose(small(x), network(x), rtol=1e-6)
