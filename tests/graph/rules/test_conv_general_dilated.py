import numpy as np
import pytest
from jax import lax

from sparsejax.deploy import shrink
from tests.graph.rules.brute_force import check, draw, network

RNG = np.random.default_rng(0)
KERNEL = RNG.normal(size=(3, 2, 5, 4)).astype(np.float32)
KERNEL[:, :, 1] = KERNEL[..., 2] = 0


def convolve(h, padding="VALID", kernel=KERNEL, numbers=("NHWC", "HWIO", "NHWC"), **options):
    options = {"window_strides": (1, 1), "dimension_numbers": numbers} | options
    return lax.conv_general_dilated(h, kernel, padding=padding, **options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding": "SAME", "window_strides": (2, 1)},
        {"padding": ((2, 0), (0, 1)), "rhs_dilation": (1, 2)},
        {"kernel": KERNEL.transpose(3, 2, 0, 1), "numbers": ("NHWC", "OIHW", "NCHW")},
    ],
)
def test_one_group_loses_channels(options):
    check(lambda h: convolve(h, **options), (4, 4, 5), whole=(1, 2), complete=False)


def test_channels_first():
    check(
        lambda h: convolve(h.transpose(0, 3, 1, 2), numbers=("NCHW", "HWIO", "NCHW")),
        (4, 4, 5), whole=(1, 2), complete=False,
    )  # fmt: skip


def test_a_dilated_operand():
    check(
        lambda h: convolve(h, ((1, 0), (0, 0)), lhs_dilation=(2, 1)),
        (3, 3, 5), whole=(1, 2), complete=False, onnx=False,
    )  # fmt: skip


def test_groups_are_unsupported():
    kernel = np.ones((1, 1, 2, 4), np.float32)
    operation = lambda h: convolve(h, kernel=kernel, feature_group_count=2)  # noqa: E731
    params, x = draw(np.random.default_rng(0), operation, (2, 2, 4))
    with pytest.raises(ValueError, match=r"conv_general_dilated \(over 4 units after"):
        shrink(network(operation, params), x)
