import numpy as np
import pytest
from jax import lax

from sparsejax.deploy import shrink
from tests.graph.rules.brute_force import check, check_constants, check_live, draw, network


@pytest.mark.parametrize(
    ("shape", "after"),
    [((2, 6), (12,)), ((3, 2, 2), (6, 2)), ((2, 4), (1, 2, 1, 4)), ((2, 2, 3), (2, 6))],
)
@pytest.mark.parametrize("seed", range(2))
def test_merged_dimensions(shape, after, seed):
    check(lambda h: h.reshape(len(h), *after), shape, seed)


def test_merged_with_the_batch():
    check(lambda h: (2 * h.reshape(-1, 5)).reshape(len(h), -1), (3, 5))


@pytest.mark.parametrize(("shape", "after"), [((6,), (2, 3)), ((2, 6), (4, 3)), ((8,), (2, 2, 2))])
def test_split_dimensions_keep_a_grid(shape, after):
    """All tuples of the factors' units are kept, so that more than what is alive may be."""
    for seed in range(3):
        check_constants(lambda h: h.reshape(len(h), *after), shape, seed, complete=False)
    if len(shape) == 1:  # what reads all of a row of the grid keeps it, and nothing else
        check_live(lambda h: h.reshape(len(h), *after).sum(1)[:, :1], shape, 0)


def test_lengths_without_common_factors_are_unsupported():
    operation = lambda h: 2 * h.reshape(len(h), 3, 8)  # noqa: E731
    params, x = draw(np.random.default_rng(0), operation, (4, 6))
    with pytest.raises(ValueError, match=r"reshape \(over"):
        shrink(network(operation, params), x)


def test_dimensions_are_permuted_first():
    """As the rule of ``vmap`` for convolutions writes it."""
    check(lambda h: lax.reshape(h, (len(h), 6, 4), dimensions=(0, 2, 1, 3)), (2, 3, 4), onnx=False)
