import jax.numpy as jnp
import pytest
from jax import lax

from tests.graph.rules.brute_force import check


@pytest.mark.parametrize("axis", [1, 2])
def test_of_itself_and_another_function(axis):
    check(lambda h: lax.concatenate([h, -h, h], axis), (3, 4))


def test_with_known_numbers():
    check(lambda h: jnp.concatenate([jnp.zeros_like(h[..., :2]), h, jnp.ones_like(h)], 2), (2, 4))
