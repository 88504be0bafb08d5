"""The exchange of kept and pruned weights, against all masks and in float64."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.oneshot import admm, magnitude, prune, sparsegpt, swaps, wanda
from tests.oneshot.problems import error, least_squares, one_kernel


def pruned(problem, method, pattern="row", budget=0.5):
    found = prune(problem[0], problem[1], budget, method, pattern)
    return np.asarray(found["dense"]["kernel"]).T.astype(np.float64)


def row_errors(new, old, h):
    change = new - old
    return ((change @ h) * change).sum(1)


def best_exchange(w, h, mask):
    """The smallest error over all exchanges of one kept and one pruned entry of a row."""
    errors = []
    for p, q in itertools.product(np.flatnonzero(mask), np.flatnonzero(~mask)):
        other = mask.copy()
        other[p], other[q] = False, True
        d = w * other - w
        errors.append(d @ h @ d)
    return min(errors)


@pytest.mark.parametrize(
    ("start", "pattern"), [(magnitude, "row"), (wanda, "layer"), (wanda, "2:4")]
)
def test_no_round_raises_the_error_of_an_output(start, pattern):
    problem = one_kernel(16, 24)
    w, h = problem[2:]
    masks, errors = [], []
    for rounds in (0, 1, 2, 3, 9, 60):
        found = pruned(problem, swaps(start(), rounds, damping=0), pattern)
        np.testing.assert_array_equal(found, np.where(found != 0, w, 0))
        masks.append(found != 0)
        errors.append(row_errors(found, w, h))
    np.testing.assert_array_equal(masks[0], pruned(problem, start(), pattern) != 0)
    for mask in masks:
        np.testing.assert_array_equal(mask.sum(1), masks[0].sum(1))
        if pattern == "2:4":
            assert set(mask.reshape(-1, 4).sum(1)) == {2}
    for before, after in itertools.pairwise(errors):
        assert (after <= before * (1 + 1e-4)).all()
    assert errors[-1].sum() < 0.8 * errors[0].sum()


def test_each_round_exchanges_one_weight_of_an_output():
    problem = one_kernel(16, 24)
    first, second = (pruned(problem, swaps(rounds=n)) != 0 for n in (0, 1))
    assert ((first & ~second).sum(1) <= 1).all()
    assert (first & ~second).sum() > 8


def test_the_search_in_groups_takes_the_best_pair():
    problem = one_kernel(8, 4)  # one group of 2:4 is the whole row
    w, h = problem[2:]
    start, found = (pruned(problem, swaps(rounds=n, damping=0), "2:4") for n in (0, 1))
    for row in range(8):
        best = best_exchange(w[row], h, start[row] != 0)
        before, after = (row_errors(a, w, h)[row] for a in (start, found))
        np.testing.assert_allclose(after, min(before, best), rtol=1e-3)


def test_the_search_ends_close_to_the_best_of_all_masks():
    problem = one_kernel(12, 10, rows=100)
    w, h = problem[2:]
    start, found = (pruned(problem, swaps(rounds=n, damping=0)) for n in (0, 60))
    best = 0.0
    for row in w:
        masks = (np.isin(np.arange(10), kept) for kept in itertools.combinations(range(10), 5))
        best += min((row * mask - row) @ h @ (row * mask - row) for mask in masks)
    errors = [row_errors(a, w, h).sum() for a in (start, found)]
    assert best <= errors[1] * (1 + 1e-5)
    assert errors[1] <= 1.5 * best
    assert errors[1] < errors[0]


def test_fitted_weights_are_those_of_least_squares():
    problem = one_kernel()
    w, h = problem[2:]
    found = pruned(problem, swaps(rounds=40, refit_iterations=60))
    wanted = least_squares(w, h + 0.001 * np.diag(np.diag(h)), found != 0)
    np.testing.assert_allclose(found, wanted, atol=2e-4)
    assert error(found, w, h) < error(pruned(problem, swaps(rounds=40)), w, h)


@pytest.mark.parametrize("start", [admm, sparsegpt])
@pytest.mark.parametrize("pattern", ["layer", "2:4"])
def test_the_search_improves_the_masks_of_other_methods(start, pattern):
    errors = {}
    for seed in range(3):
        problem = one_kernel(24, 48, rows=500, seed=seed)
        for rounds in (0, 30):
            method = swaps(start(), rounds, refit_iterations=30)
            found = pruned(problem, method, pattern)
            errors[rounds] = errors.get(rounds, 0) + error(found, *problem[2:])
    assert errors[30] <= errors[0]
    assert start is admm or errors[30] < errors[0]


def test_what_it_does_not_do():
    problem = one_kernel()
    for pattern in ("4x1", "inputs"):
        with pytest.raises(ValueError, match="units for the method swaps, which exchanges single"):
            pruned(problem, "swaps", pattern)
    with pytest.raises(TypeError, match="start must be a Method; got 'wanda'"):
        swaps("wanda")
    found = pruned(problem, "swaps", "units")
    np.testing.assert_array_equal(found, pruned(problem, sparsegpt(), "units"))
    assert jnp.isfinite(found).all()
