"""Projections that add entries up have no result for NaN and infinity, and say so."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.projections import (
    low_rank_factors,
    project_binary,
    project_k_means,
    project_l1_ball,
    project_low_rank,
    project_ternary,
)

PROJECTIONS = {
    "binary": functools.partial(project_binary, scaled=True),
    "ternary": functools.partial(project_ternary, scaled=True),
    "k means": functools.partial(project_k_means, k=2),
    "k means, iterated": functools.partial(project_k_means, k=2, exact=False),
    "l1 ball": functools.partial(project_l1_ball, radius=1.0),
    "low rank": functools.partial(project_low_rank, rank=1),
}


@pytest.mark.parametrize("name", PROJECTIONS)
def test_nan_and_infinity_are_loud(name):
    project = PROJECTIONS[name]
    for value in (np.nan, np.inf, -np.inf):
        tree = {"a": {"kernel": jnp.asarray([[1.0, 2.0, value], [3.0, -1.0, 0.5]])}}
        with pytest.raises(
            ValueError, match=r"NaN or infinity in 1 of the 6 entries of \['a'\]\['ke"
        ):
            project(tree)
        # An error cannot leave a program, so every entry is NaN.
        assert np.isnan(jax.jit(project)(tree)["a"]["kernel"]).all(), value


def test_factors_of_a_kernel_that_is_not_finite():
    with pytest.raises(ValueError, match="kernel must not hold NaN or infinity"):
        low_rank_factors(jnp.asarray([[1.0, jnp.inf], [0.0, 1.0]]), 1)
