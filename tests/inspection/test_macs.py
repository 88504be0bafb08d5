import numpy as np
import pytest

from sparsejax.inspection import macs

PARAMS = {
    "conv": {"kernel": np.zeros((5, 5, 1, 20)), "bias": np.zeros(20)},
    "dense": {"kernel": np.zeros((2880, 10))},
}


def test_counts_each_position_of_a_convolution_and_zeros_too():
    assert macs(PARAMS, ["conv", "dense"], {"conv": 576}) == 500 * 576 + 28_800
    assert macs(PARAMS, ["dense"]) == 28_800


@pytest.mark.parametrize("positions", [{"conv2": 3}, {"conv": 0}])
def test_bad_positions_are_named(positions):
    with pytest.raises(ValueError, match="positions must give layers among .* a count >= 1; got"):
        macs(PARAMS, ["conv", "dense"], positions)


def test_an_unknown_layer_is_named():
    with pytest.raises(ValueError, match="params hold no nowhere/kernel"):
        macs(PARAMS, ["nowhere"])
