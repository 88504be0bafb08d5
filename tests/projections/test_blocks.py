import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from sparsejax.projections import project_blocks
from tests.reference import exact_square, greedy_prefix, primitives, shard


def slices(tree, rows, columns):
    """The blocks of all leaves in order, as a leaf's name and slices."""
    for name in sorted(tree):
        *outer, height, width = tree[name].shape
        for place in np.ndindex(*outer):
            for top in range(0, height, rows):
                for left in range(0, width, columns):
                    block = (slice(top, top + rows), slice(left, left + columns))
                    yield name, (*place, *block)


def reference(tree, kappa, block):
    leaves = {name: np.asarray(leaf, np.float64) for name, leaf in tree.items()}
    blocks = list(slices(tree, *block))
    squares = [exact_square(leaves[name][where]) for name, where in blocks]
    result = {name: np.zeros_like(leaf) for name, leaf in leaves.items()}
    for (name, where), keep in zip(
        blocks, greedy_prefix(squares, [1] * len(blocks), kappa), strict=True
    ):
        if keep:
            result[name][where] = leaves[name][where]
    return result


def tree_of(dtype="float32", seed=0):
    """Few different magnitudes: ties within leaves, between them and with smaller blocks."""
    rng = np.random.default_rng(seed)
    return {
        "conv": jnp.asarray(rng.integers(-1, 2, (2, 3, 4, 8)), dtype),
        "dense": jnp.asarray(
            rng.integers(-2, 3, (16, 24)) * rng.choice([1, 1e-3], (16, 24)), dtype
        ),
    }


def assert_same(found, expected):
    for name in expected:
        np.testing.assert_array_equal(np.asarray(found[name], np.float64), expected[name])


@pytest.mark.long
@pytest.mark.parametrize(
    ("block", "dtype"),
    [
        ((4, 4), "float32"),
        ((3, 5), "float32"),
        ((3, 5), "bfloat16"),
        ((1, 8), "float32"),
        ((100, 1), "bfloat16"),
    ],
)
def test_keeps_the_blocks_of_largest_norm(block, dtype):
    tree = tree_of(dtype)
    count = len(list(slices(tree, *block)))
    project = jax.jit(lambda tree, kappa: project_blocks(tree, kappa, block))
    for kappa in (0, 1, count // 3, count // 2, count - 1, count):
        found = project(tree, kappa)
        assert found["dense"].dtype == dtype
        assert_same(found, reference(tree, kappa, block))


def test_not_jitted_the_blocks_are_the_same():
    tree = tree_of()
    assert_same(project_blocks(tree, 5, (3, 5)), reference(tree, 5, (3, 5)))


def test_vmap_over_trees_and_kappas():
    trees = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(tree_of(seed=s) for s in range(3)))
    project = jax.jit(jax.vmap(lambda t, k: project_blocks(t, k, (4, 3))))
    found = project(trees, jnp.asarray([-1, 30, 999]))
    for member, kappa in enumerate((0, 30, 999)):
        one = jax.tree.map(lambda leaf, m=member: leaf[m], found)
        assert_same(one, reference(tree_of(seed=member), kappa, (4, 3)))


CUTS = [
    {"dense": P("a"), "conv": P(None, None, None, "b")},
    {"dense": P("b", "a"), "conv": P("b")},
    {"dense": P(("a", "b")), "conv": P()},
]


@pytest.mark.long
@pytest.mark.parametrize("cuts", CUTS)
def test_cut_over_devices_the_bits_are_those_of_one(cuts):
    tree = tree_of()
    cut = {name: shard(tree[name], *cuts[name]) for name in tree}
    for block in ((2, 3), (3, 5)):  # the second straddles devices
        project = jax.jit(lambda tree, kappa, block=block: project_blocks(tree, kappa, block))
        for kappa in (0, 40, 60):
            found = project(cut, kappa)
            assert_same(found, reference(tree, kappa, block))
            for name in tree:
                assert found[name].sharding.is_equivalent_to(cut[name].sharding, tree[name].ndim)


@pytest.mark.long
@pytest.mark.parametrize("cuts", CUTS)
def test_where_pieces_are_known_they_hold_whole_blocks(cuts):
    tree = tree_of()
    explicit = jax.make_mesh((4, 2), ("a", "b"))
    typed = {name: jax.device_put(tree[name], NamedSharding(explicit, cuts[name])) for name in tree}
    by_hand = jax.shard_map(
        lambda t, k: project_blocks(t, k, (2, 2), specs=cuts),
        mesh=jax.make_mesh((4, 2), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2),
        in_specs=(cuts, P()), out_specs=cuts,
    )  # fmt: skip
    for kappa in (0, 55, 90):
        expected = reference(tree, kappa, (2, 2))
        assert_same(project_blocks(typed, kappa, (2, 2)), expected)
        assert_same(jax.jit(by_hand)(tree, kappa), expected)
    with pytest.raises(ValueError, match="local shard must be a multiple of the block's length 7"):
        project_blocks(typed, 3, (7, 7))


def test_gradients_flow_to_what_is_kept_and_nothing_is_sorted():
    leaf = jnp.asarray([[3.0, 1.0, 2.0, -4.0, 9.0]])
    gradient = jax.grad(lambda leaf: (project_blocks(leaf, 2, (1, 2)) ** 2).sum())(leaf)
    np.testing.assert_array_equal(gradient, [[0, 0, 4, -8, 18]])
    used = primitives(jax.make_jaxpr(lambda t: project_blocks(t, 3, (4, 4)))(tree_of()).jaxpr)
    assert not [name for name in used if "sort" in name or "top_k" in name or "callback" in name]


def test_nan_is_loud():
    holed = jnp.ones((2, 3)).at[0, 1].set(jnp.nan)
    with pytest.raises(ValueError, match="it has NaN in 1 of the 6 entries"):
        project_blocks(holed, 1, (2, 2))
    assert jnp.isnan(jax.jit(lambda t: project_blocks(t, 1, (2, 2)))(holed)).all()


@pytest.mark.parametrize(
    ("kappa", "block", "error", "message"),
    [
        (5, (4, 4), ValueError, "kappa must be an integer from 0 to 4; got 5"),
        (1, 4, ValueError, "block must be a pair of integers >= 1, rows and columns; got 4"),
        (1, (0, 4), ValueError, r"block must be a pair .*got \(0, 4\)"),
        (1, (2.0, 4), TypeError, r"block must be a pair .*got \(2.0, 4\)"),
    ],
)
def test_bad_arguments_are_named(kappa, block, error, message):
    with pytest.raises(error, match=message):
        project_blocks(jnp.ones((6, 8)), kappa, block)
    with pytest.raises(ValueError, match=r"two or more dimensions, .*; the leaf has shape \(6,\)"):
        project_blocks(jnp.ones(6), 1, (2, 2), where=True)
