"""Random networks compute the same when they are shrunk; `random_networks` runs many of them."""

import numpy as np
import pytest

from tests.deploy.shrinking.random_networks import check, draw


@pytest.mark.long
@pytest.mark.parametrize("seed", range(8))
def test_random_networks(seed):
    """Those of even seeds move units about, those of odd ones are on sequences."""
    network, shapes = draw(seed)
    check(network, shapes[-1:], np.random.default_rng(seed))
