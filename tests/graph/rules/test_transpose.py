import pytest

from tests.graph.rules.brute_force import check


@pytest.mark.parametrize("order", [(0, 2, 1, 3), (0, 3, 1, 2)])
def test_orders(order):
    check(lambda h: h.transpose(order), (2, 3, 4))


def test_the_batch_behind_units_and_back():
    check(lambda h: (2 * h.transpose(2, 0, 1)).transpose(1, 2, 0), (3, 4))
