import pytest
from jax import lax

from tests.graph.rules.brute_force import check, check_constants, check_onnx


@pytest.mark.parametrize(("sizes", "axis"), [((1, 3), 1), ((2, 1, 3), 2)])
def test_each_part_is_read(sizes, axis):
    check(lambda h: lax.split(h, sizes, axis), (4, 6))


def test_of_a_part_that_nothing_reads():
    """One unit of it is kept, as of every group of units."""
    operation = lambda h: lax.split(h, (2, 4), 2)[1]  # noqa: E731
    check_constants(operation, (3, 6), 0)
    check_onnx(operation, (3, 6), 0)
