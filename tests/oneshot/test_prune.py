"""One call for a whole tree: counts, patterns, layouts, devices, dtypes and bad input."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sparsejax.oneshot import (
    Calibration,
    KernelLayout,
    Method,
    layer_errors,
    magnitude,
    prune,
    sparsegpt,
)
from sparsejax.transforms import kept_weights
from tests.oneshot.problems import calibration_of, dense_layout, inputs_of, one_kernel, weights_of

METHODS = ("magnitude", "wanda", "sparsegpt", "admm")


def network(dtype=jnp.float32):
    """Two kernels of one shape and stacked ones, with a bias and an embedding."""
    shapes = {"a": (16, 8), "b": (16, 8), "stacked": (3, 16, 8)}
    params = {
        name: {"kernel": jnp.asarray(np.random.default_rng(n).normal(size=shape), dtype)}
        for n, (name, shape) in enumerate(shapes.items())
    }
    params["a"]["bias"] = jnp.ones(8, dtype)
    params["embedding"] = jnp.ones((5, 16), dtype)
    xs = {f"{name}/kernel": inputs_of(100, 16, n) for n, name in enumerate(shapes)}
    xs["stacked/kernel"] = np.stack([inputs_of(100, 16, seed) for seed in (0, 1, 7)])
    layouts = {f"{name}/kernel": dense_layout(shape) for name, shape in shapes.items()}
    return params, calibration_of(xs, layouts, {"embedding": "no product reads it"})


def matrices(params, calibration):
    return {
        name: np.asarray(layout.matrices(params[name.split("/")[0]]["kernel"]))
        for name, layout in calibration.layouts.items()
    }


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sparsity", [0, 0.31, Fraction(2, 3)])
def test_rows_and_layers_keep_exact_numbers(method, sparsity):
    params, calibration = network()
    for pattern, counted in (("row", 16), ("layer", 128)):
        found = prune(params, calibration, sparsity, method, pattern)
        for matrix in matrices(found, calibration).values():
            groups = (matrix != 0).reshape(-1, counted)
            assert set(groups.sum(1)) == {kept_weights(counted, sparsity)}
        assert found["embedding"] is params["embedding"]
        assert found["a"]["bias"] is params["a"]["bias"]


@pytest.mark.parametrize("method", ["wanda", "sparsegpt", "admm"])
def test_groups_keep_exact_numbers(method):
    params, calibration = network()

    def counts(pattern, budget, tile):
        """The number of live tiles [outputs, inputs] of each matrix, and whether they are whole."""
        found = prune(params, calibration, budget, method, pattern)
        for matrix in matrices(found, calibration).values():
            (high, wide), (batch, outputs, inputs) = tile, matrix.shape
            tiles = (matrix != 0).reshape(batch, outputs // high, high, inputs // wide, wide)
            live = tiles.any((2, 4))
            assert (tiles == live[:, :, None, :, None]).all()
            yield from live.sum((1, 2)).tolist()

    assert set(counts("4x1", 0.5, (1, 4))) == {16}
    assert set(counts("2x4", 0.7, (4, 2))) == {5}
    assert set(counts("units", 0.5, (1, 16))) == {4}
    assert set(counts("units/2", 0.5, (2, 16))) == {2}
    assert set(counts("inputs", 0.75, (8, 1))) == {4}
    assert set(counts("inputs/4", 0.5, (8, 4))) == {2}


@pytest.mark.parametrize("method", METHODS)
def test_n_m_keeps_n_of_each_m(method):
    params, calibration = network()
    for pattern, m, n, budget in (("2:4", 4, 2, None), ("2:4", 4, 2, 0.5), ("3:8", 8, 3, 0.625)):
        found = prune(params, calibration, budget, method, pattern)
        for matrix in matrices(found, calibration).values():
            assert set((matrix != 0).reshape(-1, m).sum(1)) == {n}


@pytest.mark.parametrize("method", METHODS)
def test_stacked_and_batched_matrices_give_what_single_ones_give(method):
    params, calibration = network()
    whole = prune(params, calibration, 0.5, method)
    together = prune(params, calibration, 0.5, method, vmap_size=4)
    for one, two in zip(jax.tree.leaves(whole), jax.tree.leaves(together), strict=True):
        np.testing.assert_array_equal(one != 0, two != 0)
        np.testing.assert_allclose(one, two, rtol=3e-5, atol=1e-5)  # processors differ
    stacked = calibration.inputs["stacked/kernel"]
    for n in range(3):
        single = {"stacked": {"kernel": params["stacked"]["kernel"][n]}}
        own = calibration_of({}, {"stacked/kernel": dense_layout((16, 8))})
        own.inputs["stacked/kernel"] = jax.tree.map(lambda x, n=n: x[n : n + 1], stacked)
        found = prune(single, own, 0.5, method)["stacked"]["kernel"]
        np.testing.assert_array_equal(found, whole["stacked"]["kernel"][n])


def test_a_convolution_and_an_attention_kernel_are_pruned_as_their_matrices():
    """Layouts with several input axes, in any order, and with output axes before them."""
    shapes = {"conv": (3, 2, 4, 8), "heads": (2, 12, 8), "transposed": (8, 24)}
    axes = {"conv": ((3,), (0, 1, 2)), "heads": ((2,), (0, 1)), "transposed": ((0,), (1,))}
    layouts = {name: KernelLayout(shapes[name], (), *axes[name]) for name in shapes}
    matrix = weights_of(8, 24).astype(np.float32)
    params = {name: jnp.asarray(layouts[name].kernel(matrix[None])) for name in shapes}
    calibration = calibration_of(dict.fromkeys(shapes, inputs_of(100, 24)), layouts)
    for method in ("admm", "sparsegpt"):
        found = prune(params, calibration, 0.5, method, "2:4")
        alike = [np.asarray(layouts[name].matrices(found[name])) for name in shapes]
        np.testing.assert_array_equal(alike[0], alike[1])
        np.testing.assert_array_equal(alike[0], alike[2])


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_outputs_does_not_matter(method):
    params, calibration, *_ = one_kernel()
    order = np.random.default_rng(0).permutation(12)
    turned = {"dense": {"kernel": params["dense"]["kernel"][:, order]}}
    found = prune(params, calibration, 0.5, method)["dense"]["kernel"]
    other = prune(turned, calibration, 0.5, method)["dense"]["kernel"]
    np.testing.assert_array_equal(found[:, order] != 0, other != 0)
    np.testing.assert_allclose(found[:, order], other, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_sharded_parameters_give_the_same_bits_and_stay_sharded(method):
    params, calibration = network()
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("x", "y"))
    sharding = NamedSharding(mesh, PartitionSpec(None, "x", "y"))
    cut = dict(params, stacked={"kernel": jax.device_put(params["stacked"]["kernel"], sharding)})
    whole, found = (prune(p, calibration, 0.5, method) for p in (params, cut))
    assert found["stacked"]["kernel"].sharding == sharding
    jax.tree.map(np.testing.assert_array_equal, found, whole)


@pytest.mark.parametrize("method", METHODS)
def test_other_dtypes(method):
    params, calibration = network(jnp.bfloat16)
    found = prune(params, calibration, 0.5, method)
    jax.tree.map(lambda new, old: new.dtype == old.dtype or pytest.fail("dtype"), found, params)
    assert (found["a"]["kernel"] != 0).sum() == 64
    with jax.enable_x64(True):
        params, calibration = network(jnp.float64)
        wide = prune(params, calibration, 0.5, method)
        assert wide["a"]["kernel"].dtype == jnp.float64
        assert (wide["a"]["kernel"] != 0).sum() == 64


def test_where_leaves_kernels_out():
    params, calibration = network()
    found = prune(params, calibration, 0.5, "wanda", where=lambda path, leaf: "'b'" in str(path[0]))
    assert found["a"] is not params["a"]
    assert found["a"]["kernel"] is params["a"]["kernel"]
    assert (found["b"]["kernel"] == 0).sum() == 64


def test_what_a_caller_hears_of_each_kernel():
    params, calibration = network()
    heard = {}
    found = prune(params, calibration, 0.5, "admm", on_layer=heard.__setitem__)
    assert heard == pytest.approx(layer_errors(params, found, calibration), rel=1e-4)
    assert list(heard) == list(calibration.inputs)


def test_progress_is_printed(capsys):
    params, calibration = network()
    prune(params, calibration, 0.5, "wanda", progress=True)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("1/3 a/kernel: error 0.")


def test_budgets_of_one_program():
    """The budget is traced: other budgets compile nothing."""
    params, calibration = network()
    for method in ("sparsegpt", "admm"):
        prune(params, calibration, 0.5, method)
        with jax.log_compiles(False), compilations() as count:
            prune(params, calibration, 0.7, method)
        assert count == []


def compilations():
    import contextlib

    @contextlib.contextmanager
    def counting():
        from jax import monitoring

        found = []

        def listen(event, duration, **_):
            if "backend_compile" in event:
                found.append(event)

        monitoring.register_event_duration_secs_listener(listen)
        try:
            yield found
        finally:
            monitoring.unregister_event_duration_listener(listen)

    return counting()


def test_a_singular_gram_matrix_is_damped_and_that_is_said():
    params, calibration, *_ = one_kernel(rows=5, rank=3)
    with pytest.warns(UserWarning, match="1 kernels were singular.* dense/kernel by"):
        found = prune(params, calibration, 0.5, sparsegpt(damping=0))
    assert (found["dense"]["kernel"] != 0).sum() == 144
    assert np.isfinite(found["dense"]["kernel"]).all()
    for method in ("sparsegpt", "admm"):  # whose damping is enough
        assert (prune(params, calibration, 0.5, method)["dense"]["kernel"] != 0).sum() == 144


def test_bad_arguments_are_named():
    params, calibration = network()

    def message(error, *args, **options):
        with pytest.raises(error) as raised:
            prune(*args, **options)
        return str(raised.value)

    assert "budget must be a number in [0, 1); got 1" in message(ValueError, params, calibration, 1)
    assert "budget must be a number" in message(TypeError, params, calibration, None)
    assert "budget must be None or 0.5 for the pattern 2:4; got 0.6" in message(
        ValueError, params, calibration, 0.6, pattern="2:4"
    )
    found = message(ValueError, params, calibration, 0.5, "obs")
    assert "method must be a Method or one of ('magnitude'" in found
    assert "got 'obs'" in found
    assert "call it: sparsegpt(...)" in message(ValueError, params, calibration, 0.5, sparsegpt)
    for pattern in ("2/4", "5:4", "columns", "0x4", None):
        found = message(ValueError, params, calibration, 0.5, pattern=pattern)
        assert f"got {pattern!r}" in found
        assert "pattern must be 'row', 'layer'" in found
    found = message(ValueError, params, calibration, None, pattern="2:3")
    assert "kernels whose inputs are a multiple of 3; a/kernel has 16 inputs. Leave" in found
    found = message(ValueError, params, calibration, 0.5, pattern="units/3")
    assert "kernels whose outputs are a multiple of 3; a/kernel has 8 outputs" in found
    for pattern in ("inputs/4", "inputs", "4x1", "1x2"):
        found = message(ValueError, params, calibration, 0.5, "swaps", pattern)
        assert found.endswith(f"single weights; got {pattern!r}")
    assert "got 3" in message(TypeError, params, calibration, 0.5, on_layer=3)
    assert "vmap_size must be an integer >= 1" in message(
        ValueError, params, calibration, 0.5, vmap_size=0
    )
    found = message(ValueError, params, calibration, 0.5, where=lambda path, leaf: leaf.ndim > 1)
    assert "it has not seen embedding, since no product reads it" in found


def test_trees_that_are_not_those_of_the_calibration():
    params, calibration = network()
    other = dict(params, b={"kernel": jnp.ones((8, 16))})
    with pytest.raises(ValueError, match=r"b/kernel has shape \(8, 16\) and had \(16, 8\)"):
        prune(other, calibration, 0.5)
    with pytest.raises(ValueError, match="they have no leaf b/kernel"):
        prune({"a": params["a"]}, calibration, 0.5)
    with pytest.raises(TypeError, match="a/kernel is traced"):
        jax.jit(lambda p: prune(p, calibration, 0.5))(params)
    broken = dict(params, b={"kernel": params["b"]["kernel"].at[3, 3].set(jnp.nan)})
    with pytest.raises(ValueError, match="params must be finite; .* at b/kernel"):
        prune(broken, calibration, 0.5)
    inputs = calibration.inputs["a/kernel"]
    calibration.inputs["a/kernel"] = inputs._replace(gram=inputs.gram.at[0, 1, 2].set(jnp.inf))
    with pytest.raises(ValueError, match="calibration must be finite; .* at a/kernel"):
        prune(params, calibration, 0.5)
    with pytest.raises(TypeError, match="calibration must be what calibrate returns"):
        prune(params, {}, 0.5)


def test_a_traced_calibration_and_traced_results_are_refused():
    params, calibration = network()
    with pytest.raises(TypeError, match="calibration must hold concrete arrays"):
        jax.jit(lambda c: prune(params, c, 0.5))(calibration)
    with pytest.raises(TypeError, match="pruned must hold concrete arrays"):
        jax.jit(lambda p: layer_errors(params, p, calibration))(params)
    with pytest.raises(ValueError, match=r"a/kernel must have shape \(16, 8\); got nothing"):
        layer_errors(params, {"b": params["b"]}, calibration)


def test_arrays_of_numpy_stay_arrays_of_numpy():
    params, calibration = network()
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    found = prune(wide, calibration, 0.5, "magnitude")
    assert type(found["a"]["kernel"]) is np.ndarray
    assert found["a"]["kernel"].dtype == np.float64
    np.testing.assert_array_equal(
        found["a"]["kernel"], prune(params, calibration, 0.5, "magnitude")["a"]["kernel"]
    )


@jax.tree_util.register_pytree_with_keys_class
class Callable:
    """A module that is a pytree and can be called, as those of Equinox and Flax NNX."""

    def __init__(self, kernel):
        self.kernel = kernel

    def __call__(self, x):
        return x @ self.kernel

    def tree_flatten_with_keys(self):
        return [(jax.tree_util.GetAttrKey("kernel"), self.kernel)], None

    @classmethod
    def tree_unflatten(cls, _, leaves):
        return cls(*leaves)


def test_a_module_that_can_be_called_is_a_tree():
    params, calibration, *_ = one_kernel()
    module = Callable(params["dense"]["kernel"])
    seen = Calibration(
        {"kernel": calibration.inputs["dense/kernel"]},
        {"kernel": calibration.layouts["dense/kernel"]},
    )
    for where in (None, Callable(True), lambda path, leaf: True):
        found = prune(module, seen, 0.5, "magnitude", where=where)
        assert isinstance(found, Callable)
        assert (found.kernel != 0).sum() == 144


def test_a_kernel_without_inputs_is_named():
    params, calibration = network()
    inputs = calibration.inputs["b/kernel"]
    calibration.inputs["b/kernel"] = inputs._replace(gram=0 * inputs.gram)
    with pytest.warns(UserWarning, match="the inputs of b/kernel are 0 in all rows"):
        found = prune(params, calibration, 0.5, "wanda")
    assert (found["a"]["kernel"] != 0).sum() == 64
    for method in (magnitude(), Method("first", keep_first, uses_inputs=False)):
        prune(params, calibration, 0.5, method)  # ignores the inputs, and causes no warning
    with pytest.warns(UserWarning, match="the inputs of b/kernel are 0 in all rows"):
        prune(params, calibration, 0.5, Method("magnitude", keep_first))


def keep_first(weights, gram, pattern, count):
    mask = pattern.largest(jnp.ones_like(weights), count)
    return jnp.where(mask, weights, 0), jnp.zeros((), weights.dtype)
