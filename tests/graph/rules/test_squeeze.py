import pytest
from jax import lax

from tests.graph.rules.brute_force import check


@pytest.mark.parametrize(("shape", "axes"), [((1, 5), (1,)), ((2, 1, 4), (2,))])
def test_dropped_dimensions(shape, axes):
    check(lambda h: 2 * lax.squeeze(h, axes), shape, whole=axes)
