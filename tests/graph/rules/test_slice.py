import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from tests.graph.rules.brute_force import check, check_constants, check_live

SHAPE = (4, 6)


@st.composite
def bounds(draw):
    """Starts, limits and strides of the dimensions behind the batch."""
    found = []
    for length in SHAPE:
        start = draw(st.integers(0, length - 1))
        found.append((start, draw(st.integers(start + 1, length)), draw(st.integers(1, 3))))
    return found


def cut(h, bounds):
    starts, limits, strides = zip((0, len(h), 1), *bounds, strict=True)
    return lax.slice(h, starts, limits, strides)


@given(bounds(), st.integers(0, 2**16))
@settings(max_examples=6, deadline=None)
def test_random_bounds(bounds, seed):
    check_live(lambda h: cut(h, bounds), SHAPE, seed)
    check_constants(lambda h: cut(h, bounds), SHAPE, seed)


@pytest.mark.parametrize("bounds", [[(0, 4, 1), (1, 6, 2)], [(1, 3, 1), (0, 6, 1)]])
def test_in_a_file(bounds):
    check(lambda h: cut(h, bounds), SHAPE)
