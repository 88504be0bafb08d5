"""One budget for all kernels together."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.oneshot import _comparison, prune
from sparsejax.transforms import kept_weights
from tests.oneshot.problems import calibration_of, dense_layout, inputs_of


def network():
    """Kernels of several shapes; the outputs of the last are a thousand times larger."""
    shapes = {"a": (16, 8), "b": (16, 24), "stacked": (3, 16, 8), "large": (12, 8)}
    rng = np.random.default_rng(0)
    params = {name: jnp.asarray(rng.normal(size=s), jnp.float32) for name, s in shapes.items()}
    xs = {name: inputs_of(200, s[-2], n) for n, (name, s) in enumerate(shapes.items())}
    xs["stacked"] = np.stack([inputs_of(200, 16, seed) for seed in (5, 6, 7)])
    xs["large"] *= 1000
    layouts = {name: dense_layout(shape) for name, shape in shapes.items()}
    return params, calibration_of(xs, layouts), xs


def kept(params):
    return {name: np.asarray(leaf != 0).sum() for name, leaf in params.items()}


@pytest.mark.parametrize("method", ["magnitude", "wanda", "swaps", "sparsegpt", "admm"])
def test_the_count_over_all_kernels_is_exact(method):
    params, calibration, _ = network()
    for sparsity in (0.5, Fraction(5, 7)):
        found = prune(params, calibration, sparsity, method, "global")
        assert sum(kept(found).values()) == kept_weights(992, sparsity)


def test_the_division_is_that_of_a_sort():
    """In float64, by explicit inverses."""
    params, calibration, xs = network()
    scores, energies, errors = {}, {}, {}
    for name, x in xs.items():
        for n, one in enumerate(np.reshape(x, (-1, *x.shape[-2:]))):
            w = np.asarray(params[name], np.float64).reshape(-1, *params[name].shape[-2:])[n].T
            gram = one.T @ one / len(one)
            price = 1 / np.diag(np.linalg.inv(gram + 0.1 * np.diag(np.diag(gram))))
            score = w**2 * price
            scores[name, n] = score
            energies[name, n] = np.trace(w @ gram @ w.T)
            errors[name, n] = np.sort(score.ravel())[: score.size // 2].sum()
    for comparison, units in (("balanced", errors), ("relative", energies), ("absolute", None)):
        found = prune(params, calibration, 0.5, "magnitude", "global", comparison=comparison)
        comparable = {k: s / units[k] if units else s for k, s in scores.items()}
        threshold = np.sort(np.concatenate([s.ravel() for s in comparable.values()]))[992 // 2]
        for name, n in comparable:
            one = np.asarray(found[name]).reshape(-1, *found[name].shape[-2:])[n]
            assert (one != 0).sum() == (comparable[name, n] >= threshold).sum()


def test_matrices_of_one_shape_may_fill_several_arrays(monkeypatch):
    params, calibration, _ = network()
    one = prune(params, calibration, 0.5, "magnitude", "global")
    monkeypatch.setattr(_comparison, "_MOST_ENTRIES", 300)  # two of the four matrices 16 x 8
    several = prune(params, calibration, 0.5, "magnitude", "global")
    jax.tree.map(np.testing.assert_array_equal, one, several)


def test_sizes_of_outputs_matter_only_where_asked():
    params, calibration, xs = network()
    small = calibration_of(dict(xs, large=xs["large"] / 1000), calibration.layouts)
    for comparison in ("balanced", "relative"):
        one, two = (
            kept(prune(params, c, 0.5, "wanda", "global", comparison=comparison))
            for c in (calibration, small)
        )
        assert one == two
    found = kept(prune(params, calibration, 0.5, "wanda", "global", comparison="absolute"))
    assert found["large"] > 80  # of 96


def test_one_kernel_alone_gets_the_whole_budget():
    params, calibration, _ = network()
    where = {name: name == "b" for name in params}
    one = prune(params, calibration, 0.5, "admm", "global", where)
    two = prune(params, calibration, 0.5, "admm", "layer", where)
    jax.tree.map(np.testing.assert_array_equal, one, two)


def test_a_comparison_that_there_is_not():
    params, calibration, _ = network()
    with pytest.raises(ValueError, match=r"comparison must be one of \('balanced', .* got 'none'"):
        prune(params, calibration, 0.5, pattern="global", comparison="none")


@pytest.mark.parametrize("pattern", ["layer", "row", "inputs"])
def test_a_comparison_goes_with_one_budget_for_all_kernels(pattern):
    params, calibration, _ = network()
    for comparison in ("absolute", "relative", "loss"):
        with pytest.raises(ValueError, match=f"'{comparison}' divides .* must be 'global'; got '"):
            prune(params, calibration, 0.5, "wanda", pattern, comparison=comparison)
    by_default = prune(params, calibration, 0.5, "wanda", pattern)
    told = prune(params, calibration, 0.5, "wanda", pattern, comparison="balanced")
    jax.tree.map(np.testing.assert_array_equal, by_default, told)
