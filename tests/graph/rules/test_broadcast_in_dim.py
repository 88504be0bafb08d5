import pytest
from jax import lax

from tests.graph.rules.brute_force import check


@pytest.mark.parametrize(
    ("shape", "after", "axes"),
    [((4,), (3, 4), (0, 2)), ((4,), (4, 2), (0, 1)), ((1, 4), (3, 4), (0, 1, 2))],
)
def test_new_and_grown_dimensions(shape, after, axes):
    whole = (1,) if len(shape) == 2 else ()
    check(lambda h: lax.broadcast_in_dim(h, (len(h), *after), axes), shape, whole=whole)
