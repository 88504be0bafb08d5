import jax
import jax.numpy as jnp

import sparsejax
from sparsejax.inspection import report

W = jnp.ones((20, 8))
TREE = {
    "embed": W,
    "head": W,
    "norm": {"scale": jnp.ones(8), "bias": jnp.ones(8)},
    "steps": jnp.asarray(3),
}


def test_says_what_is_chosen_and_why():
    choice = sparsejax.chosen(TREE)
    assert choice.size == report(TREE).size == 160
    chosen, *others = choice.leaves
    assert chosen.path == report(TREE).leaves[0].path == "['embed'] and ['head']"
    assert (chosen.shape, chosen.chosen) == ((20, 8), True)
    assert [leaf.chosen for leaf in others] == [False] * 3
    assert {leaf.path: leaf.why for leaf in others} == {
        "['norm']['bias']": "a bias",
        "['norm']['scale']": "a scale or a statistic of a normalisation",
        "['steps']": "not floating point",
    }


def test_prints_a_table():
    lines = str(sparsejax.chosen(TREE)).splitlines()
    assert lines[0] == "chosen: 160 entries"
    assert lines[1].startswith("  ['embed'] and ['head']  [20, 8]  160  a kernel or an embedding")
    assert lines[2] == "left out: 17 entries"
    assert len(lines) == 6


def test_takes_any_where_and_shapes_alone():
    shapes = jax.eval_shape(lambda: TREE)
    choice = sparsejax.chosen(shapes, lambda path, leaf: leaf.ndim == 1)
    assert choice.size == 16
    assert {leaf.why for leaf in choice.leaves} == {"where chooses it", "where leaves it out"}
    assert sparsejax.chosen(shapes).size == 320  # shapes are not shared
