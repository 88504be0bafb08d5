import bz2

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.inspection import bzip2_bytes, report
from tests.reference import shard

TREE = {
    "layer": {"kernel": jnp.array([[1.0, 0.0, -0.0], [2.0, jnp.nan, 0.0]]), "bias": jnp.zeros(3)},
    "other": jnp.ones((2, 2), jnp.bfloat16),
}


def test_counts():
    counts = report(TREE)
    assert (counts.size, counts.nonzeros, counts.density) == (10, 7, 0.7)
    assert counts.leaves[0] == ("['layer']['kernel']", 6, 3)
    assert counts.leaves[0].density == 0.5
    assert report(TREE, lambda path, leaf: True).size == 13
    assert report({"kernel": jnp.zeros((0, 3))}).density == 0


def test_prints_a_table():
    lines = str(report(TREE)).splitlines()
    assert lines[0].split() == ["leaf", "entries", "non-zero", "density"]
    assert lines[-1].split() == ["all", "10", "7", "70.000%"]


def test_sharded_leaves_are_counted_in_place():
    leaf = jax.random.bernoulli(jax.random.key(0), 0.3, (16, 8)).astype(jnp.float32)
    assert report(shard(leaf, "a", "b")).nonzeros == int(leaf.sum())


def test_bzip2_bytes():
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(TREE)]
    assert bzip2_bytes(TREE) == len(bz2.compress(b"".join(leaf.tobytes() for leaf in leaves)))
    zeros, noise = jnp.zeros((300, 300)), jax.random.normal(jax.random.key(0), (300, 300))
    assert bzip2_bytes(zeros) < 1000 < bzip2_bytes(noise)


def test_a_where_that_chooses_nothing_is_refused():
    with pytest.raises(ValueError, match="chooses none"):
        report({"bias": jnp.ones(2)})
