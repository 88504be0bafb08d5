import numpy as np
import pytest

from sparsejax.deploy import shrink
from tests.graph.rules.brute_force import check, draw, network


@pytest.mark.parametrize("name", ["sum", "max", "min"])
@pytest.mark.parametrize("axis", [1, (1, 2)])
def test_over_positions(name, axis):
    """Positions are inputs, which no weight knows, and each of them is read."""
    whole = (1,) if axis == 1 else (1, 2)
    check(lambda h: getattr(h, name)(axis), (3, 2, 5), whole=whole)


def test_over_units_is_unsupported():
    operation = lambda h: h.sum(2)  # noqa: E731
    params, x = draw(np.random.default_rng(0), operation, (3, 5))
    with pytest.raises(ValueError, match=r"reduce_sum \(over 5 units after"):
        shrink(network(operation, params), x)
