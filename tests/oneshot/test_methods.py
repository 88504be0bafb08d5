"""Each method on one kernel, against what it should be in float64 NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.oneshot import admm, layer_errors, magnitude, prune, sparsegpt, wanda
from tests.oneshot.problems import damp, error, least_squares, one_kernel

METHODS = {"magnitude": magnitude, "wanda": wanda, "sparsegpt": sparsegpt, "admm": admm}


def pruned(problem, *args, **options):
    """The pruned kernel [out, in] in float64."""
    params, calibration, _, _ = problem
    found = prune(params, calibration, *args, **options)
    np.testing.assert_array_equal(found["dense"]["bias"], params["dense"]["bias"])
    return np.asarray(found["dense"]["kernel"]).T.astype(np.float64)


def largest_of_each_row(scores, count):
    order = np.argsort(-scores, axis=1, kind="stable")
    mask = np.zeros(scores.shape, bool)
    np.put_along_axis(mask, order[:, :count], True, axis=1)
    return mask


def test_magnitude_and_wanda_keep_what_a_sort_keeps():
    problem = one_kernel()
    w, h = problem[2:]
    for method, scores in (("magnitude", abs(w)), ("wanda", abs(w) * np.sqrt(np.diag(h)))):
        rows = np.where(largest_of_each_row(scores, 6), w, 0)
        np.testing.assert_array_equal(pruned(problem, 0.75, method, "row"), rows)
        whole = largest_of_each_row(scores.reshape(1, -1), 72).reshape(w.shape)
        np.testing.assert_array_equal(pruned(problem, 0.75, method), np.where(whole, w, 0))


def brain_surgery(w, h, masks):
    """Prune columns in order by explicit inverses of what is left of H."""
    w = w.copy()
    live = list(range(w.shape[1]))
    mask = np.zeros(w.shape, bool)
    for column in range(w.shape[1]):
        inverse = np.linalg.inv(h[np.ix_(live, live)])
        if column in masks:
            chosen = masks[column]
            part = np.arange(column, column + chosen.width)
            # In a problem from which the columns before are gone, the price of each column when
            # those before it in the block are gone, too.
            price = [np.linalg.inv(h[j:, j:])[0, 0] for j in part]
            mask[:, part] = chosen.keep(w[:, part] ** 2 / np.array(price))
        step = np.where(mask[:, column], 0, w[:, column]) / inverse[0, 0]
        w[:, live] -= step[:, None] * inverse[0]
        live.remove(column)
    return np.where(mask, w, 0)


class Chosen:
    def __init__(self, width, count):
        self.width, self.count = width, count

    def keep(self, scores):
        return largest_of_each_row(scores, self.count)


def test_sparsegpt_is_brain_surgery_by_explicit_inverses():
    problem = one_kernel()
    w, h = problem[2:]
    wanted = brain_surgery(w, damp(h, 0.01), {n: Chosen(8, 4) for n in (0, 8, 16)})
    found = pruned(problem, 0.5, sparsegpt(block_size=8), "row")
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    wanted = brain_surgery(w, damp(h, 0.1), {n: Chosen(4, 2) for n in range(0, 24, 4)})
    found = pruned(problem, None, sparsegpt(damping=0.1, block_size=9), "2:4")
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_blocks_of_sparsegpt_change_no_count():
    """A last block that is not whole, blocks of one column, and a block larger than the matrix."""
    problem = one_kernel()
    for size in (1, 7, 24, 128):
        assert (pruned(problem, 0.7, sparsegpt(block_size=size)) != 0).sum() == 86
        kept = (pruned(problem, 0.7, sparsegpt(block_size=size), "row") != 0).sum(1)
        assert kept.tolist() == [7] * 12


def test_admm_ends_at_the_least_squares_weights_under_its_mask():
    problem = one_kernel()
    w, h = problem[2:]
    found = pruned(problem, 0.5, admm(refit_iterations=60, damping=0.001), "row")
    wanted = least_squares(w, h + 0.001 * np.diag(np.diag(h)), found != 0)
    np.testing.assert_allclose(found, wanted, atol=2e-4)


@pytest.mark.parametrize("pattern", ["row", "layer", "2:4", "4x1"])
def test_better_methods_have_smaller_errors(pattern):
    """Mean over several problems: magnitude, Wanda, SparseGPT, ADMM."""
    errors = {}
    for seed in range(4):
        problem = one_kernel(24, 48, rows=500, seed=10 * seed)
        for name in METHODS:
            found = pruned(problem, 0.5, name, pattern)
            errors[name] = errors.get(name, 0) + error(found, *problem[2:])
    assert errors["admm"] < errors["sparsegpt"] < errors["wanda"] < errors["magnitude"]
    assert errors["admm"] < 0.9 * errors["sparsegpt"]


def test_admm_takes_one_iteration_and_three_stages_where_there_are_as_many():
    problem = one_kernel()
    for iterations, stages in ((1, 1), (2, 2), (9, 3)):
        by_default, told = (
            pruned(problem, 0.5, admm(iterations, **given)) for given in ({}, {"stages": stages})
        )
        np.testing.assert_array_equal(by_default, told)
    with pytest.raises(ValueError, match="stages must be an integer from 1 to 2; got 3"):
        admm(iterations=2, stages=3)


def best_mask(w, h, count):
    """The smallest least-squares error of one row over all masks."""
    import itertools

    best = np.inf
    for kept in itertools.combinations(range(len(w)), count):
        kept = list(kept)
        solved = np.linalg.solve(h[np.ix_(kept, kept)], (h @ w)[kept])
        best = min(best, w @ h @ w - solved @ (h @ w)[kept])
    return best


def test_admm_is_close_to_the_best_of_all_masks():
    problem = one_kernel(10, 12, rows=100, seed=5)
    w, h = problem[2:]
    best = sum(best_mask(row, h, 6) for row in w) / np.trace(w @ h @ w.T)
    found = error(pruned(problem, 0.5, "admm", "row"), w, h)
    assert best <= found <= 1.8 * best


def test_inputs_that_are_always_zero_get_no_weights():
    params, calibration = one_kernel()[:2]
    dead = [3, 17]
    inputs = calibration.inputs["dense/kernel"]
    gram = np.array(inputs.gram)
    gram[:, dead] = gram[:, :, dead] = 0
    calibration.inputs["dense/kernel"] = inputs._replace(gram=jnp.asarray(gram))
    for method in ("sparsegpt", "admm"):
        kernel = np.asarray(prune(params, calibration, 0.5, method)["dense"]["kernel"])
        assert (kernel != 0).sum() == 144
        assert not kernel[dead].any()


def test_layer_errors_are_those_of_the_outputs():
    params, calibration, w, h = problem = one_kernel()
    found = prune(params, calibration, 0.5, "wanda")
    new = np.asarray(found["dense"]["kernel"]).T
    errors = layer_errors(params, found, calibration)
    assert list(errors) == ["dense/kernel"]
    np.testing.assert_allclose(errors["dense/kernel"], error(new, w, h), rtol=1e-4)
    assert layer_errors(params, params, calibration) == {"dense/kernel": 0}
    nothing = {"dense": {"kernel": 0 * params["dense"]["kernel"], "bias": 0}}
    np.testing.assert_allclose(layer_errors(params, nothing, calibration)["dense/kernel"], 1)
    del problem
