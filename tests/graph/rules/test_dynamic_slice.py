import jax.numpy as jnp
import pytest
from jax import lax

from tests.graph.rules.brute_force import check


@pytest.mark.parametrize(
    ("starts", "sizes"), [((0, 1), (3, 2)), ((1, 9), (1, 3)), ((-1, -2), (2, 6)), ((9, 0), (3, 6))]
)
def test_fixed_starts_are_clamped(starts, sizes):
    check(lambda h: lax.dynamic_slice(h, (0, *starts), (len(h), *sizes)), (3, 6))


def test_a_start_that_is_computed():
    """All units along its dimension are kept."""

    def operation(h):
        start = (h[0, 0, 0] > 0).astype(jnp.int32)
        return lax.dynamic_slice_in_dim(h, start, 2, axis=1)

    check(operation, (3, 6), whole=(1,), complete=False, onnx=False)
