"""Messages about trees that do not fit: short for any network, and with the place."""

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

from sparsejax import chosen
from sparsejax._misfit import misfit
from sparsejax.compression import l0_ball, partition
from sparsejax.projections import project_l0_ball

OWNER = {"dense": {"kernel": 1, "bias": 2}, "out": {"kernel": 3}}


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        ({"dense": True}, "it lacks ['out']"),
        ({"dense": 0, "outt": 0}, "it lacks ['out'], and ['outt'] is not in params"),
        ({"dense": {"kernel": 0, "b": 0}, "out": 0}, "it lacks ['dense']['bias'], and"),
        ([0, 0], "it has list in place of dict"),
        ({"dense": 0, "out": {"kernel": (0, 0)}}, "tuple in place of a leaf at ['out']['kernel']"),
        ({"dense": 0, "out": None}, "it has NoneType in place of dict at ['out']"),
    ],
)
def test_the_first_difference_is_named(tree, expected):
    assert expected in misfit(tree, OWNER, "params")


def test_what_a_tree_may_have_is_named_last():
    tree = {"dense": 0, "out": {"kernel": optax.MaskedNode()}}
    assert "MaskedNode in place of a leaf" in misfit(tree, OWNER, "params")
    assert "a leaf in place of dict at ['dense']" in misfit(tree, OWNER, "params", deeper=True)


def test_messages_stay_short_for_large_networks():
    params = {f"layer_{n}": {"kernel": jnp.ones((2, 2))} for n in range(100)}
    with pytest.raises(ValueError, match=r"it lacks .*\['layer_12'\] and 95 more") as caught:
        project_l0_ball(params, 3, {"layer_0": True})
    assert len(str(caught.value)) < 300
    with pytest.raises(ValueError, match=r"it lacks .* and 95 more$"):
        partition({"a": l0_ball(3)}, {"layer_0": "a"}).init(params)


def test_a_dict_for_a_state_of_nnx_is_named():
    params = nnx.state(nnx.Linear(3, 2, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match=r"callable \(path, leaf\).* dict in place of State$"):
        chosen(params, {"kernel": True, "bias": False})


@pytest.mark.parametrize(
    ("params", "where", "message"),
    [
        (OWNER, lambda path, leaf: "conv" in str(path), r"3 leaves, \['dense'\]\['bias'\], \['den"),
        (OWNER, lambda path, leaf: path[0] == "out", r"jax.tree_util.keystr\(path\) is the path"),
        (jnp.ones(4), None, r"the tree itself \(fewer than two dimensions\)\. Pass where"),
        (OWNER, "dense", r"where must be a callable .*; it holds 'dense'"),
    ],
)
def test_a_choice_of_nothing_shows_what_there_is_to_choose(params, where, message):
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
    with pytest.raises(ValueError, match=message):
        chosen(params, where)
