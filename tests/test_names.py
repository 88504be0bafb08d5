"""The names of leaves: wrappers are told apart by type, so that no name means anything special."""

import jax
import jax.numpy as jnp
import pytest
from flax import linen, nnx

from sparsejax._names import leaves_by_name, named_leaves

W = jnp.eye(3)


@pytest.mark.parametrize(
    ("tree", "names"),
    [
        ({"critic": {"value": W}}, ["critic/value"]),
        ({"heads": {"policy": W, "value": W}}, ["heads/policy", "heads/value"]),
        ({"value": {"value": W}}, ["value/value"]),
        (nnx.State({"critic": {"value": nnx.Param(W)}}), ["critic/value"]),
        ({"raw_value": linen.Partitioned(W, (None, None))}, ["raw_value"]),
        ([(W, W), {"w": W}], ["0/0", "0/1", "1/w"]),
        (W, [""]),
        (nnx.Param(W), [""]),
    ],
)
def test_names_leave_out_wrappers_and_nothing_else(tree, names):
    named = named_leaves(tree)
    assert [name for name, _ in named] == names
    assert list(leaves_by_name(tree)) == names
    assert all(leaf is other for (_, leaf), other in zip(named, jax.tree.leaves(tree), strict=True))


def test_two_leaves_of_one_name_are_an_error():
    with pytest.raises(ValueError, match="two of them are named 'a/b'"):
        leaves_by_name({"a": {"b": W}, "a/b": W})
