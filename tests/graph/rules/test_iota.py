import jax.numpy as jnp
import pytest
from jax import lax

from tests.graph.rules.brute_force import check


@pytest.mark.parametrize("axis", [1, 2])
def test_the_index_of_a_unit_stays_what_it_was(axis):
    def operation(h):
        return h * (1 + lax.broadcasted_iota(jnp.float32, h.shape, axis))

    check(operation, (3, 5), complete=False, onnx=False)


def test_without_the_batch():
    check(lambda h: h * (1 + jnp.arange(5, dtype=h.dtype)), (3, 5))
