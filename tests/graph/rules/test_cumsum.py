import numpy as np
import pytest
from jax import lax

from sparsejax.deploy import shrink
from tests.graph.rules.brute_force import check, draw, network

KINDS = {
    "cumsum": lax.cumsum, "cummax": lax.cummax, "cummin": lax.cummin, "cumprod": lax.cumprod,
    "cumlogsumexp": lax.cumlogsumexp,
}  # fmt: skip


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", KINDS)
def test_over_positions(name, reverse):
    def operation(h):
        return KINDS[name](h, 1, reverse)

    check(operation, (3, 5), whole=(1,), complete=False, onnx=name == "cumsum")


def test_over_units_is_unsupported():
    operation = lambda h: lax.cumsum(h, 2)  # noqa: E731
    params, x = draw(np.random.default_rng(0), operation, (2, 5))
    with pytest.raises(ValueError, match=r"cumsum \(over 5 units after"):
        shrink(network(operation, params), x)
