import jax.numpy as jnp
import pytest
from jax import lax

from tests.graph.rules.brute_force import check

POOLS = {"sum": (lax.add, 0.0), "max": (lax.max, -jnp.inf), "min": (lax.min, jnp.inf)}


@pytest.mark.parametrize("name", POOLS)
@pytest.mark.parametrize(
    ("padding", "strides"), [((0, 0), (2, 2)), ((1, 0), (1, 2)), ((1, 1), (2, 1))]
)
def test_pools_keep_positions_and_lose_channels(name, padding, strides):
    reduce, start = POOLS[name]

    def pool(h):
        pads = (
            ((0, 0), (0, 0), padding, (0, 0))
            if name == "sum"
            else ((0, 0), padding, (0, 0), (0, 0))
        )
        return lax.reduce_window(h, start, reduce, (1, 2, 2, 1), (1, *strides, 1), pads)

    check(pool, (4, 4, 3), whole=(1, 2), complete=not any(padding))


def test_a_dilated_base():
    def pool(h):
        return lax.reduce_window(h, 0.0, lax.add, (1, 2, 1), (1, 1, 1), "VALID", (1, 2, 1))

    check(pool, (4, 3), whole=(1,), complete=False, onnx=False)
