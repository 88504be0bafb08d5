import numpy as np
import pytest
from jax import lax

from sparsejax.deploy import shrink
from tests.graph.rules.brute_force import (
    BATCH,
    alive,
    as_mask,
    check,
    check_constants,
    check_onnx,
    draw,
    network,
)

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
        (3, 3, 5), whole=(1, 2), complete=False,
    )  # fmt: skip


@pytest.mark.parametrize("multiplier", [1, 2])
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_depthwise(multiplier, padding):
    kernel = RNG.normal(size=(2, 3, 1, 5 * multiplier)).astype(np.float32)
    kernel[..., 2 * multiplier : 3 * multiplier] = 0
    check(
        lambda h: convolve(h, padding, kernel, feature_group_count=5),
        (3, 4, 5), multiplier, whole=(1, 2), complete=False, onnx=padding == "SAME",
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
def test_groups_leave_as_a_whole_or_lose_the_same_channels(seed):
    """A channel that is dead in all groups, and a group of dead channels."""
    groups, rng = 4, np.random.default_rng(seed)
    kernel = rng.normal(size=(2, 1, 3, 8)).astype(np.float32)
    kernel[:, :, 1] = kernel[..., 2:4] = 0
    operation = lambda h: convolve(h, "SAME", kernel, feature_group_count=groups)  # noqa: E731
    params, x = draw(rng, operation, (2, 2, 12), share=0.9)
    params["w"][:, 4:6] = params["b"][4:6] = 0
    found = shrink(network(operation, params), x)
    by_group = alive(rng, operation, params, (2, 2, 12))[-1].reshape(groups, 3)
    expected = np.outer(by_group.any(1), by_group.any(0)).ravel()
    assert 0 < expected.sum() < 8
    np.testing.assert_array_equal(as_mask(found.kept["w"][1], 12), expected)
    np.testing.assert_allclose(found(x), network(operation, params)(x), rtol=1e-4, atol=1e-4)
    check_constants(operation, (2, 2, 12), seed, complete=False)
    if not seed:
        check_onnx(operation, (2, 2, 12), seed)


def test_groups_of_the_batch_are_unsupported():
    kernel = np.ones((1, 1, 4, BATCH), np.float32)

    def operation(h):
        return h * convolve(h, kernel=kernel, batch_group_count=BATCH)[..., :1]

    params, x = draw(np.random.default_rng(0), operation, (2, 2, 4))
    with pytest.raises(ValueError, match=r"conv_general_dilated \(over 4 units after"):
        shrink(network(operation, params), x)
