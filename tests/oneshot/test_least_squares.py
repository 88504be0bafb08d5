"""Conjugate gradients that are run on after they have converged."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.oneshot import admm, prune, swaps
from sparsejax.oneshot._least_squares import refit
from tests.oneshot.problems import calibration_of, dense_layout, inputs_of, least_squares

ITERATIONS = (0, 10, 50, 150, 1000)
INPUTS, OUTPUTS = 32, 48


def correlated(rng):
    return rng.normal(size=(300, INPUTS)) @ rng.normal(size=(INPUTS, INPUTS))


def low_rank(rng):
    return rng.normal(size=(8, INPUTS)) * np.exp(2 * rng.normal(size=INPUTS))


def powers(rng):
    return np.vander(np.linspace(0, 1, 300) + 0 * rng.normal(), INPUTS)


def repeated(rng):
    return np.repeat(rng.normal(size=(300, INPUTS // 2)), 2, axis=1)


def products(left, h, right):
    return np.einsum("oi,ij,oj->o", *(np.asarray(one, np.float64) for one in (left, h, right)))


def errors(new, old, h):
    """The error of each output relative to its squares."""
    change = np.asarray(new, np.float64) - old
    return products(change, h, change) / products(old, h, old)


def rounding(new, old, h):
    """What such errors change by when weights are rounded."""
    change = np.asarray(new, np.float64) - old
    noise = products(abs(change), abs(h), abs(new) + abs(old)) / products(old, h, old)
    return np.finfo(new.dtype).eps * np.maximum(noise, 1)


def never_rise(found, old, h, tolerance=10):
    """Whether later results have no larger errors, of no output, up to rounding."""
    of = np.stack([errors(one, old, h) for one in found])
    noise = np.stack([rounding(one, old, h) for one in found])
    best = np.minimum.accumulate(of)
    return (of[1:] <= best[:-1] + tolerance * np.maximum.accumulate(noise)[:-1]).all()


@pytest.mark.parametrize("scale", [1e-10, 1, 1e8])
@pytest.mark.parametrize("inputs", [correlated, low_rank, powers, repeated])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_no_number_of_iterations_raises_an_error(dtype, inputs, scale):
    rng = np.random.default_rng(0)
    x = inputs(rng)
    plain = x.T @ x / len(x)
    weights = (scale * rng.normal(size=(OUTPUTS, INPUTS))).astype(dtype)
    mask = rng.random((OUTPUTS, INPUTS)) < 0.5
    with jax.enable_x64(dtype == np.float64):
        for damping in (0, 1e-6, 1e-3):
            h = (plain + damping * np.diag(np.diag(plain))).astype(dtype)
            arguments = [jnp.asarray(one) for one in (np.where(mask, weights, 0), weights, h, mask)]
            found = [np.asarray(jax.jit(refit)(*arguments, number)) for number in ITERATIONS]
            assert never_rise(found, weights, h)
            assert all((one[~mask] == 0).all() for one in found)
            if damping == 1e-3:
                best = errors(least_squares(weights, h.astype(np.float64), mask), weights, h)
                np.testing.assert_allclose(errors(found[-1], weights, h), best, rtol=1e-4)


@pytest.mark.parametrize("method", [admm, swaps])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_methods_with_more_iterations_than_are_needed(method, dtype):
    with jax.enable_x64(dtype == "float64"):
        x = inputs_of(300, INPUTS)
        weights = np.random.default_rng(1).normal(size=(INPUTS, OUTPUTS)).astype(dtype)
        calibration = calibration_of({"k": x}, {"k": dense_layout(weights.shape)}, dtype=dtype)
        found = []
        for number in ITERATIONS[1:]:
            made = method(refit_iterations=number)
            new = prune({"k": jnp.asarray(weights)}, calibration, 0.5, made, "row", vmap_size=2)
            found.append(np.asarray(new["k"]).T)
        moments = x.T @ x / len(x)
        assert never_rise(found, weights.T, moments + 1e-3 * np.diag(np.diag(moments)))
