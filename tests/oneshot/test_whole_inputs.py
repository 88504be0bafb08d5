"""Whole inputs, such as heads: against all supports, and the way on to a smaller network."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.deploy import Network, shrink
from sparsejax.oneshot import calibrate, prune, sparsegpt
from tests.oneshot.problems import damp, error, least_squares, one_kernel

HEADS, SIZE, KEPT = 8, 3, 4


def optimum(weights, h):
    """The least error of all choices of heads, with the least-squares weights of each."""
    found = []
    for kept in itertools.combinations(range(HEADS), KEPT):
        mask = np.repeat(np.isin(np.arange(HEADS), kept), SIZE)
        new = least_squares(weights, h, np.broadcast_to(mask, weights.shape))
        found.append(error(new, weights, h))
    return min(found)


@pytest.mark.parametrize("method", [sparsegpt(damping=1e-4), "admm"])
def test_heads_are_nearly_the_best_ones(method):
    factors = []
    for seed in range(6):
        params, calibration, weights, h = one_kernel(outputs=6, seed=seed)
        new = prune(params, calibration, 0.5, method, f"inputs/{SIZE}")["dense"]["kernel"]
        new = np.asarray(new, np.float64).T
        live = (new != 0).any(0).reshape(HEADS, SIZE)
        assert live.any(1).sum() == KEPT
        assert (live.all(1) == live.any(1)).all()
        factors.append(error(new, weights, h) / optimum(weights, h))
    assert min(factors) > 1 - 1e-4
    assert max(factors) < 1.2
    assert np.mean(factors) < 1.05


def test_the_weights_that_are_left_are_the_least_squares_ones():
    params, calibration, weights, h = one_kernel(outputs=6)
    new = prune(params, calibration, 0.5, sparsegpt(damping=0.01), f"inputs/{SIZE}")
    new = np.asarray(new["dense"]["kernel"], np.float64).T
    expected = least_squares(weights, damp(h, 0.01), new != 0)
    np.testing.assert_allclose(new, expected, rtol=2e-3, atol=2e-4)


def test_heads_wider_than_a_block_are_chosen_by_what_they_cost():
    """Shares of blocks would keep every second head, wherever the large weights are."""
    params, calibration, weights, _ = one_kernel(outputs=6)
    large = np.repeat(np.isin(np.arange(HEADS), [0, 2, 4, 6]), SIZE)
    params["dense"]["kernel"] = jnp.asarray((weights * np.where(large, 10, 0.1)).T, jnp.float32)
    new = prune(params, calibration, 0.5, sparsegpt(block_size=SIZE), f"inputs/{SIZE}")
    np.testing.assert_array_equal((new["dense"]["kernel"] != 0).any(1), large)


def test_hidden_units_that_are_pruned_as_inputs_leave_the_network():
    keys = jax.random.split(jax.random.key(0), 3)
    params = {
        "up": {"kernel": jax.random.normal(keys[0], (6, 10)), "bias": jnp.ones(10)},
        "down": {"kernel": jax.random.normal(keys[1], (10, 4)), "bias": jnp.ones(4)},
    }

    def function(params, x):
        hidden = jax.nn.relu(x @ params["up"]["kernel"] + params["up"]["bias"])
        return hidden @ params["down"]["kernel"] + params["down"]["bias"]

    x = jax.random.normal(keys[2], (50, 6))
    is_down = {"up": False, "down": {"kernel": True, "bias": False}}
    calibration = calibrate(function, params, [x], is_down)
    pruned = prune(params, calibration, 0.6, "admm", "inputs", is_down)
    small = shrink(Network(function, pruned), x)
    assert small.params["up"]["kernel"].shape == (6, 4)
    np.testing.assert_allclose(small(x), function(pruned, x), rtol=1e-4, atol=1e-4)
