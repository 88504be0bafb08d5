import pytest
from jax import lax

from tests.graph.rules.brute_force import check


@pytest.mark.parametrize("axes", [(1,), (2,), (1, 2)])
def test_reversed_dimensions(axes):
    check(lambda h: lax.rev(h, axes), (3, 6))
