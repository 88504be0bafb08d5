import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsejax.projections import project_l0_ball
from tests.projections.forms import sample_from
from tests.reference import as_float64, equations, top_kappa

DTYPES = [jnp.float32, jnp.bfloat16, jnp.float16]
SHAPES = {"a": (5, 7), "b": (2, 3, 4), "c": (6, 1)}
SIZE = 35 + 24 + 6
everything = lambda path, leaf: True  # noqa: E731
project = jax.jit(project_l0_ball, static_argnames="where")

# Few values, so that ties are everywhere, and every awkward one among them.
AWKWARD = [0.0, -0.0, 1.0, -1.0, 2.0, -3.5, np.inf, -np.inf, 1e-40, -1e-40, 2e-45, 6e-8, 65504.0]


def tree_of(values, dtypes):
    values = np.asarray(values, np.float64)
    tree, start = {}, 0
    for (name, shape), dtype in zip(SHAPES.items(), dtypes, strict=True):
        size = int(np.prod(shape))
        leaf = np.asarray(values[start : start + size].reshape(shape), np.float32)
        tree[name] = jnp.asarray(leaf.astype(dtype))
        start += size
    return tree


def assert_is_projection(result, tree, kappa):
    np.testing.assert_array_equal(as_float64(result.values()), top_kappa(tree.values(), kappa))
    for name, leaf in tree.items():
        assert result[name].dtype == leaf.dtype
        kept = np.asarray(result[name]) != 0
        bits = np.dtype(f"u{leaf.dtype.itemsize}")  # kept entries are kept bit for bit
        np.testing.assert_array_equal(
            np.asarray(result[name]).view(bits)[kept], np.asarray(leaf).view(bits)[kept]
        )


@pytest.mark.long
@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.sampled_from(AWKWARD), min_size=SIZE, max_size=SIZE),
    kappa=st.integers(0, SIZE),
)
def test_matches_a_stable_sort_with_ties_and_awkward_values(dtype, values, kappa):
    tree = tree_of(values, [dtype] * 3)
    assert_is_projection(project(tree, kappa), tree, kappa)


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.sampled_from(AWKWARD), min_size=SIZE, max_size=SIZE),
    kappa=st.integers(0, SIZE),
    order=st.sampled_from([DTYPES[i:] + DTYPES[:i] for i in range(3)]),
)
def test_ranks_leaves_of_different_dtypes_by_value(values, kappa, order):
    tree = tree_of(values, order)
    assert_is_projection(project(tree, kappa), tree, kappa)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kappa", [0, 1, 777, 40_000, 59_999, 60_000])
def test_matches_a_stable_sort_on_random_weights(dtype, kappa):
    tree = {
        "kernel": jax.random.normal(jax.random.key(1), (200, 250), dtype),
        "other": 3 * jax.random.normal(jax.random.key(2), (100, 100), dtype),
    }
    result = project(tree, kappa)
    np.testing.assert_array_equal(as_float64(result.values()), top_kappa(tree.values(), kappa))


def test_float64_is_told_apart_beyond_float32():
    with jax.enable_x64(True):
        weights = 1 + np.arange(20.0).reshape(4, 5) * 1e-12
        result = jax.jit(project_l0_ball)(jnp.asarray(weights), 7)
        np.testing.assert_array_equal(np.asarray(result).ravel(), top_kappa([weights], 7))


def test_eager_equals_jitted():
    tree = tree_of(np.random.default_rng(0).integers(-3, 4, SIZE), [jnp.float32] * 3)
    for kappa in (0, 11, SIZE):
        assert_is_projection(project_l0_ball(tree, kappa), tree, kappa)


def test_a_traced_kappa_is_clipped_and_compiles_once():
    tree = tree_of(np.arange(SIZE), [jnp.float32] * 3)
    traces = []

    @jax.jit
    def traced(tree, kappa):
        traces.append(kappa)
        return project_l0_ball(tree, kappa)

    assert_is_projection(traced(tree, -5), tree, 0)
    assert_is_projection(traced(tree, 9), tree, 9)
    assert_is_projection(traced(tree, SIZE + 5), tree, SIZE)
    assert len(traces) == 1


def test_vmap_over_trees_with_a_kappa_each():
    keys = jax.random.split(jax.random.key(0), 3)
    trees = {
        "a": jax.vmap(lambda k: jnp.round(2 * jax.random.normal(k, (20, 30))))(keys),
        "b": jax.vmap(lambda k: jax.random.normal(k, (10, 5)))(keys),
    }
    kappas = jnp.array([0, 100, 313])
    together = jax.jit(jax.vmap(project_l0_ball))(trees, kappas)
    for member in range(3):
        one = jax.tree.map(lambda leaf, m=member: leaf[m], trees)
        alone = project(one, int(kappas[member]))
        jax.tree.map(
            np.testing.assert_array_equal, alone, {k: v[member] for k, v in together.items()}
        )


def test_the_gradient_flows_to_kept_entries_alone():
    weights = jax.random.normal(jax.random.key(3), (13, 11))
    weights = weights.at[0].set(1.0)  # ties at the threshold
    gradient = jax.jit(jax.grad(lambda w: (project_l0_ball(w, 40) ** 2).sum()))(weights)
    np.testing.assert_array_equal(gradient, 2 * project_l0_ball(weights, 40))


def test_nothing_is_sorted_or_sent_to_the_host():
    tree = {"a": jnp.zeros((64, 64)), "b": jnp.zeros((32, 32), jnp.bfloat16)}
    program = list(equations(jax.make_jaxpr(project_l0_ball)(tree, 3).jaxpr))
    used = {equation.primitive.name for equation in program}
    assert {"while", "reduce"} <= used  # the walk does see inside
    assert not [name for name in used if "sort" in name or "top_k" in name or "callback" in name]
    assert not used & {"gather", "cumsum"}
    for equation in program:
        if equation.primitive.name == "concatenate":  # of thresholds, and of counts of 64 pieces
            assert all(operand.aval.size <= 64 for operand in equation.invars)


@pytest.mark.parametrize("shape", [(2_000_000,), (2000, 1000), (10, 200, 1000)])
@pytest.mark.parametrize("sampled_from", [0, 2**40])
def test_compiled_memory_is_the_result_and_little_more(shape, sampled_from, monkeypatch):
    sample_from(sampled_from, monkeypatch)
    weights = jnp.zeros(shape)
    project = jax.jit(lambda w, k: project_l0_ball(w, k, everything))
    compiled = project.lower(weights, 7).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 0.02 * weights.nbytes


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("warm_start", [0.0, 1e-40, 0.5, 2.0, 1e30, np.inf])
def test_a_warm_start_never_changes_the_result(dtype, warm_start):
    tree = {"a": jax.random.normal(jax.random.key(0), (60, 50), dtype)}
    for kappa in (0, 1, 900, 3000):
        expected, threshold = project_l0_ball(tree, kappa, with_threshold=True)
        for near in (warm_start, threshold, 1.001 * threshold):
            result = project_l0_ball(tree, kappa, warm_start=near)
            np.testing.assert_array_equal(result["a"], expected["a"])


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_threshold_separates_kept_from_dropped(dtype):
    tree = {"a": jnp.round(jax.random.normal(jax.random.key(0), (60, 50), dtype) * 8)}
    for kappa in (0, 1, 900, 3000):
        kept, threshold = jax.jit(
            lambda tree, kappa: project_l0_ball(tree, kappa, with_threshold=True)
        )(tree, kappa)
        magnitudes, mask = np.abs(as_float64([tree["a"]])), as_float64([kept["a"]]) != 0
        assert (magnitudes[mask] >= threshold).all()
        assert (magnitudes[~mask] <= threshold).all()


def test_a_bad_warm_start_is_named():
    with pytest.raises(ValueError, match="warm_start must be a number >= 0; got -1"):
        project_l0_ball(jnp.ones((2, 2)), 1, warm_start=-1.0)


def test_nan_is_an_error_outside_jit_and_poisons_inside():
    tree = {"kernel": jnp.ones((3, 4)).at[1, 2].set(jnp.nan), "bias": jnp.ones(4)}
    with pytest.raises(ValueError, match=r"it has NaN in 1 of the 12 entries of \['kernel'\]"):
        project_l0_ball(tree, 2)
    for kappa in (0, 2, 12):
        result = jax.jit(project_l0_ball)(tree, kappa)
        assert jnp.isnan(result["kernel"]).all()
        np.testing.assert_array_equal(result["bias"], tree["bias"])


def test_nan_poisons_only_its_member_under_vmap():
    trees = jnp.ones((2, 3, 3)).at[0, 0, 0].set(jnp.nan)
    result = jax.vmap(lambda tree: project_l0_ball(tree, 4))(trees)
    assert jnp.isnan(result[0]).all()
    assert int((result[1] != 0).sum()) == 4


def test_default_where_leaves_biases_and_integers_alone():
    tree = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2), "steps": jnp.ones((2, 2), jnp.int32)}
    result = project_l0_ball(tree, 1)
    np.testing.assert_array_equal(result["kernel"], [[1, 0], [0, 0]])
    np.testing.assert_array_equal(result["bias"], tree["bias"])
    np.testing.assert_array_equal(result["steps"], tree["steps"])


def test_where_as_callable_tree_and_prefix():
    tree = {"x": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}, "y": jnp.ones((2, 2))}
    by_path = lambda path, leaf: path[0].key == "x"  # noqa: E731
    for where in (
        by_path,
        {"x": {"kernel": True, "bias": True}, "y": False},
        {"x": True, "y": False},
    ):
        result = project_l0_ball(tree, 1, where)
        assert float(jnp.abs(result["x"]["bias"]).sum()) == 1  # the bias comes first in the tree
        assert float(jnp.abs(result["x"]["kernel"]).sum()) == 0
        np.testing.assert_array_equal(result["y"], tree["y"])


def test_empty_trees_and_empty_leaves():
    assert project_l0_ball({}, 0) == {}
    empty = {"kernel": jnp.zeros((0, 4))}
    assert project_l0_ball(empty, 0)["kernel"].shape == (0, 4)
    mixed = {"kernel": jnp.zeros((0, 4)), "other": jnp.ones((2, 2))}
    assert int(jax.jit(project_l0_ball)(mixed, 3)["other"].sum()) == 3


@pytest.mark.parametrize(
    ("kappa", "error", "message"),
    [
        (-1, ValueError, "kappa must be an integer from 0 to 4; got -1"),
        (5, ValueError, "kappa must be an integer from 0 to 4; got 5"),
        (1.5, ValueError, "kappa must be an integer from 0 to 4; got 1.5"),
        (1.0, ValueError, r"got 1.0. It is a count: for a fraction of n weights pass int"),
        (np.nan, ValueError, "kappa must be an integer from 0 to 4; got nan"),
        (jnp.array([1, 2]), ValueError, "kappa must be .*got shape"),
        ("2", TypeError, "kappa must be an integer"),
    ],
)
def test_a_bad_kappa_is_named(kappa, error, message):
    with pytest.raises(error, match=message):
        project_l0_ball(jnp.ones((2, 2)), kappa)


def test_a_traced_float_kappa_is_refused():
    with pytest.raises(TypeError, match="from 0 to 4; got a traced float32"):
        jax.jit(project_l0_ball)(jnp.ones((2, 2)), 2.0)


@pytest.mark.parametrize(
    ("tree", "where", "error", "message"),
    [
        ({"bias": jnp.ones(3)}, None, ValueError, "chooses none of the tree's 1 leaves"),
        ({"n": jnp.ones((2, 2), jnp.int32)}, everything, TypeError, r"\['n'\] of dtype int32"),
        ({"a": jnp.ones((2, 2))}, {"b": True}, ValueError, "where must be a callable"),
        (
            {"a": jnp.ones((2, 2))},
            {"a": 0.5},
            ValueError,
            "where must .*; it holds 0.5",
        ),
    ],
)
def test_a_bad_where_is_named(tree, where, error, message):
    with pytest.raises(error, match=message):
        project_l0_ball(tree, 1, where)
