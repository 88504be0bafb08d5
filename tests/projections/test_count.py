"""The table of counts of many leaves."""

import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.projections._count import table
from sparsejax.projections._shards import Layout


@pytest.mark.parametrize("leaves", [1, 16, 17, 40])
def test_a_row_for_each_threshold_and_a_column_for_each_leaf(leaves):
    numbers = np.arange(3 * leaves, dtype=np.int32).reshape(leaves, 3)
    counts = [[jnp.asarray(n) for n in row] for row in numbers]
    found = table(counts, [Layout(((),))] * leaves)
    np.testing.assert_array_equal(found, numbers.T)
