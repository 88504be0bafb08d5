import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from sparsejax.projections import project_units
from tests.reference import exact_square, greedy_prefix, primitives, shard

COSTS = {"dense": 3, "conv": 7, "bias": 0}


def tree_of(dtype="float32", seed=0):
    """Ties everywhere: within a leaf, between leaves, and between permuted units."""
    rng = np.random.default_rng(seed)
    conv = np.zeros((2, 2, 8, 4))
    conv[0, 1] = rng.integers(-2, 3, (8, 4))
    conv[..., 3] = 3e-40  # subnormal in float32
    dense = rng.integers(-2, 3, (8, 12)) * 1.0
    dense[:, 5] = dense[::-1, 4]
    return {
        "dense": jnp.asarray(dense, dtype),
        "conv": jnp.asarray(conv, dtype),
        "bias": jnp.ones(4),
    }


def units_of(tree, axis=-1):
    leaves = [
        np.moveaxis(np.asarray(tree[name], np.float64), axis, 0) for name in ("conv", "dense")
    ]
    return [unit for leaf in leaves for unit in leaf]


def reference(tree, budget, axis=-1, costs=None):
    """The projection by fractions and a stable sort; ``costs`` of a unit of conv and of dense."""
    squares = [exact_square(unit) for unit in units_of(tree, axis)]
    first = tree["conv"].shape[axis]
    each = [1] * len(squares) if costs is None else [costs[0]] * first + [costs[1]] * len(squares)
    kept = greedy_prefix(squares, each[: len(squares)], budget)
    result = dict(tree)
    for name, mask in (("conv", kept[:first]), ("dense", kept[first:])):
        leaf = tree[name]
        shape = [-1 if i == axis % leaf.ndim else 1 for i in range(leaf.ndim)]
        result[name] = jnp.where(mask.reshape(shape), leaf, 0)
    return result


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a, np.float64), np.asarray(b, np.float64))


@pytest.mark.long
@pytest.mark.parametrize(("axis", "dtype"), [(-1, "float32"), (-1, "bfloat16"), (-2, "float32")])
def test_keeps_the_units_of_largest_norm(axis, dtype):
    tree = tree_of(dtype)
    project = jax.jit(lambda tree, budget: project_units(tree, budget, axis=axis))
    for budget in range(17):
        assert_same(project(tree, budget), reference(tree, budget, axis))


def test_not_jitted_the_units_are_the_same():
    tree = tree_of()
    assert_same(project_units(tree, 6), reference(tree, 6))


def test_it_is_the_nearest_tree_by_brute_force():
    rng = np.random.default_rng(3)
    tree = {"a": jnp.asarray(rng.normal(size=(3, 4))), "b": jnp.asarray(rng.normal(size=(5, 3)))}
    units = [u for name in ("a", "b") for u in np.asarray(tree[name], np.float64).T]
    total = sum(float(u @ u) for u in units)
    for budget in range(8):
        best = min(
            total - sum(float(units[i] @ units[i]) for i in kept)
            for kept in itertools.combinations(range(7), budget)
        )
        found = project_units(tree, budget)
        distance = sum(float(((tree[n] - found[n]).astype("float32") ** 2).sum()) for n in tree)
        assert distance == pytest.approx(best, rel=1e-5, abs=1e-6)


@pytest.mark.long
def test_unequal_costs_keep_the_longest_prefix_by_norm_per_cost():
    tree = tree_of()
    project = jax.jit(lambda tree, budget: project_units(tree, budget, cost=COSTS))
    parameters = jax.jit(lambda tree, budget: project_units(tree, budget, cost="parameters"))
    for budget in range(0, 65, 3):
        assert_same(project(tree, budget), reference(tree, budget, costs=(7, 3)))
        assert_same(parameters(tree, 3 * budget), reference(tree, 3 * budget, costs=(32, 8)))
    assert_same(project_units(tree, 64, cost=COSTS), tree)
    large = {"dense": 30_000_001, "conv": 70_000_003, "bias": 0}
    found = project_units(tree, 4 * 10**8, cost=large)
    assert_same(found, reference(tree, 4 * 10**8, costs=(70_000_003, 30_000_001)))


@pytest.mark.parametrize("seed", range(4))
def test_unequal_costs_meet_the_bound_of_the_knapsack(seed):
    rng = np.random.default_rng(seed)
    tree = {"a": np.float32(rng.normal(size=(2, 4))), "b": np.float32(rng.normal(size=(6, 5)))}
    costs = [3] * 4 + [5] * 5
    squares = [exact_square(u) for name in ("a", "b") for u in tree[name].T]
    everything = [
        (sum(itertools.compress(costs, kept)), sum(itertools.compress(squares, kept)))
        for kept in itertools.product([False, True], repeat=9)
    ]
    for budget in range(0, 38, 4):
        found = project_units(tree, budget, cost={"a": 3, "b": 5})
        kept = np.concatenate([np.asarray(found[n]).any(0) for n in ("a", "b")])
        np.testing.assert_array_equal(kept, greedy_prefix(squares, costs, budget))
        spent = int(np.dot(kept, costs))
        energy = sum(itertools.compress(squares, kept))
        assert spent <= budget
        assert energy == max(e for c, e in everything if c <= spent)
        left_out = [s / c for s, c, k in zip(squares, costs, kept, strict=True) if not k]
        bound = max(left_out, default=0) * (budget - spent)
        assert max(e for c, e in everything if c <= budget) <= energy + bound


@pytest.mark.long
def test_vmap_over_trees_and_budgets():
    trees = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(tree_of(seed=s) for s in range(3)))
    budgets = jnp.asarray([-1, 40, 999])
    for cost, costs in ((None, (1, 1)), (COSTS, (7, 3))):
        found = jax.jit(jax.vmap(lambda t, b, cost=cost: project_units(t, b, cost=cost)))(
            trees, budgets
        )
        for member, budget in enumerate((0, 40, 64)):
            one = jax.tree.map(lambda leaf, m=member: leaf[m], found)
            assert_same(one, reference(tree_of(seed=member), budget, costs=costs))


CUTS = [
    {"dense": P("a"), "conv": P(None, None, "b", "a"), "bias": P()},
    {"dense": P("b", "a"), "conv": P("b", None, "a"), "bias": P("a")},
    {"dense": P(("a", "b")), "conv": P(), "bias": P()},
]


@pytest.mark.long
@pytest.mark.parametrize("cuts", CUTS)
def test_cut_over_devices_the_bits_are_those_of_one(cuts):
    tree = tree_of()
    by_hand = jax.shard_map(
        lambda t, b: project_units(t, b, cost=COSTS, specs=cuts),
        mesh=jax.make_mesh((4, 2), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2),
        in_specs=(cuts, P()), out_specs=cuts,
    )  # fmt: skip
    explicit = jax.make_mesh((4, 2), ("a", "b"))
    project = jax.jit(lambda tree, budget: project_units(tree, budget, cost=COSTS))
    cut = {name: shard(tree[name], *cuts[name]) for name in tree}
    typed = {name: jax.device_put(tree[name], NamedSharding(explicit, cuts[name])) for name in tree}
    for budget in (0, 20, 43, 64):
        expected = reference(tree, budget, costs=(7, 3))
        for given in (cut, typed):
            found = project(given, budget)
            assert_same(found, expected)
            for name in ("conv", "dense"):
                assert found[name].sharding.is_equivalent_to(given[name].sharding, tree[name].ndim)
        assert_same(jax.jit(by_hand)(tree, budget), expected)


def test_gradients_flow_to_what_is_kept_and_nothing_is_sorted():
    leaf = jnp.asarray([[3.0, 1.0, 2.0], [1.0, -1.0, 0.5]])
    gradient = jax.grad(lambda leaf: (project_units(leaf, 2) ** 2).sum())(leaf)
    np.testing.assert_array_equal(gradient, [[6, 0, 4], [2, 0, 1]])
    used = primitives(jax.make_jaxpr(lambda t: project_units(t, 3, cost=COSTS))(tree_of()).jaxpr)
    assert {"while", "reduce"} <= used
    assert not [name for name in used if "sort" in name or "top_k" in name or "callback" in name]


def test_nan_is_loud_and_infinity_goes_first():
    holed = {"a": jnp.ones((2, 3)).at[0, 1].set(jnp.nan), "bias": jnp.ones(3)}
    with pytest.raises(ValueError, match=r"it has NaN in 1 of the 6 entries of \['a'\]"):
        project_units(holed, 1)
    found = jax.jit(project_units)(holed, 1)
    assert jnp.isnan(found["a"]).all()
    np.testing.assert_array_equal(found["bias"], 1)
    high = jnp.asarray([[3e38, jnp.inf, 0, -jnp.inf], [3e38, 0, 0, jnp.inf]])
    np.testing.assert_array_equal(project_units(high, 1)[0], [0, jnp.inf, 0, 0])


def test_empty_leaves_and_single_entries():
    tree = {"a": jnp.zeros((0, 3)), "b": jnp.zeros((3, 0)), "c": jnp.asarray([1.0, 3.0, 2.0])}
    found = project_units(tree, 2, lambda path, leaf: True)
    np.testing.assert_array_equal(found["c"], [0, 3, 2])
    empty = {"a": jnp.zeros((4, 0))}
    assert project_units(empty, 0)["a"].shape == (4, 0)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"budget": 17}, ValueError, "budget must be an integer from 0 to 16; got 17"),
        ({"budget": 1.5}, ValueError, "budget must be an integer from 0 to 16; got 1.5"),
        ({"budget": 65, "cost": COSTS}, ValueError, "budget must be an integer from 0 to 64"),
        ({"axis": 2}, ValueError, r"got axis 2 for \['dense'\] of shape"),
        ({"cost": "macs"}, ValueError, 'cost must be None, "parameters" or a pytree; got \'macs\''),
        ({"cost": 0}, ValueError, r"cost must hold integers >= 1; it has 0 for \['conv'\]"),
        ({"cost": 1.5}, TypeError, r"concrete integers >= 1; it has 1.5 for \['conv'\]"),
        ({"cost": {"a": 1}}, ValueError, "cost must be a pytree of integers that is a prefix"),
        ({"cost": 2**28}, ValueError, "it is 4294967296. Give costs and budget in a larger"),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        project_units(tree_of(), **{"budget": 1, **arguments})
