"""Any dtype, and every setting of JAX that people switch on."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from sparsejax.deploy import (
    Network,
    compile_sparse,
    expand,
    export_onnx,
    export_stablehlo,
    load_sparse,
    load_stablehlo,
    save_sparse,
    shrink,
    torch_state,
)
from sparsejax.deploy.sparse_programs._layers import KINDS
from sparsejax.deploy.sparse_programs._program import Program
from sparsejax.inspection import live_units, macs

DTYPES = ["float16", "bfloat16", "float32", "complex64", "int8", "int32", "uint8", "uint32"]
WIDE = ["float64", "complex128", "int64", "uint64"]


def draw(dtype, *shape):
    rng = np.random.default_rng(len(shape) * 7 + shape[0])
    if jnp.issubdtype(dtype, jnp.integer):
        info = jnp.iinfo(dtype)
        low, high = max(info.min, -(2**31)), min(info.max, 2**31)
        return rng.integers(low, high, shape).astype(dtype)
    numbers = rng.normal(size=shape)
    if jnp.issubdtype(dtype, jnp.complexfloating):
        numbers = numbers + 1j * rng.normal(size=shape)
    return numbers.astype(jnp.dtype(dtype))


def activation(h):
    """Not linear, and not 0 at 0 but for integers, which wrap around."""
    if jnp.issubdtype(h.dtype, jnp.complexfloating):
        return h * jnp.asarray(jnp.exp(-jnp.abs(h)), h.dtype) + h * h / 4
    if jnp.issubdtype(h.dtype, jnp.integer):
        return jnp.where(h > jnp.asarray(3, h.dtype), h * h, h)
    return jax.nn.silu(h) + jnp.tanh(h)


def network(params, x):
    """Products, sums over windows and time steps, scales, and two biases that absorb."""
    h = activation(x @ params["first"] + params["bias"])
    h = lax.reduce_window(h, np.zeros((), h.dtype), lax.add, (1, 2, 1), (1, 2, 1), "VALID")
    h = activation(h.reshape(-1, 6) @ params["second"] - params["mean"]) * params["scale"]
    return h @ params["last"] + params["out"]


def parameters(dtype):
    params = {
        "first": draw(dtype, 5, 6), "bias": draw(dtype, 6), "second": draw(dtype, 6, 7),
        "mean": draw(dtype, 7), "scale": draw(dtype, 7), "last": draw(dtype, 7, 3),
        "out": draw(dtype, 3),
    }  # fmt: skip
    params["first"][:, [1, 4]] = 0  # constants of the bias
    params["second"][:, 2] = 0
    params["scale"][5] = 0
    params["last"][3] = 0
    return params


def example(dtype):
    params, x = parameters(dtype), draw(dtype, 4, 2, 5)
    if jnp.issubdtype(dtype, jnp.inexact):
        params = jax.tree.map(lambda leaf: leaf / np.asarray(2, leaf.dtype), params)
    return params, x


def check(dtype):
    params, x = example(dtype)
    small = shrink(Network(network, params), x)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(small.params)} == {dtype}
    assert small.params["first"].shape == (5, 4)
    assert small.params["last"].shape == (4, 3)
    expected, found = jax.jit(network)(params, x), small.function(small.params, x)
    assert found.dtype == expected.dtype == jnp.dtype(dtype)
    if jnp.issubdtype(dtype, jnp.integer):
        np.testing.assert_array_equal(found, expected)
        return
    wide = np.complex128 if "complex" in dtype else np.float64
    eps = float(jnp.finfo(dtype).eps)
    # bfloat16 and float16 are rounded at each step, in other places than before.
    np.testing.assert_allclose(
        np.asarray(found, wide), np.asarray(expected, wide), rtol=40 * eps, atol=60 * eps
    )


@pytest.mark.long
@pytest.mark.parametrize("dtype", DTYPES)
def test_constants_are_folded_in_any_dtype(dtype):
    check(dtype)


@pytest.mark.long
@pytest.mark.parametrize("dtype", WIDE)
def test_constants_are_folded_in_wide_dtypes(dtype):
    with jax.enable_x64(True):
        check(dtype)


@pytest.mark.long
@pytest.mark.parametrize("dtype", ["complex64", "bfloat16", "float32"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_way_to_compute_a_layer_in_any_dtype(dtype, kind):
    params, x = example(dtype)
    program = Program(network, params, (x,))
    kinds = {layer.equation: kind for layer in program.layers if kind in layer.kinds}
    found = jax.jit(lambda x: program.run(kinds, x))(x)
    wide = np.complex128 if "complex" in dtype else np.float64
    eps = float(jnp.finfo(dtype).eps)
    expected = np.asarray(jax.jit(network)(params, x), wide)
    np.testing.assert_allclose(np.asarray(found, wide), expected, rtol=40 * eps, atol=60 * eps)


def test_a_complex_convolution():
    params = {"kernel": draw("complex64", 2, 3, 4), "bias": draw("complex64", 4)}
    params |= {"second": draw("complex64", 2, 4, 3), "out": draw("complex64", 3)}
    params["kernel"][..., 1] = 0

    def convolve(x, kernel):
        numbers = ("NWC", "WIO", "NWC")
        return lax.conv_general_dilated(x, kernel, (1,), "VALID", dimension_numbers=numbers)

    def function(params, x):
        h = jnp.conj(activation(convolve(x, params["kernel"]) + params["bias"]))
        return convolve(h, params["second"]) + params["out"]

    x = draw("complex64", 3, 6, 3)
    small = shrink(Network(function, params), x)
    assert small.params["kernel"].shape == (2, 3, 3)
    np.testing.assert_allclose(
        small.function(small.params, x), function(params, x), rtol=1e-5, atol=1e-5
    )
    whole = expand(small).params
    np.testing.assert_allclose(function(whole, x), function(params, x), rtol=1e-5, atol=1e-5)


def test_masks_and_indices_of_integers_and_booleans():
    params = {"w": draw("float32", 4, 6), "mask": np.array([1, 0, 1, 1, 0, 1], bool)}
    params |= {"o": draw("float32", 6, 2), "where": np.int32([3, 1, 0, 5])}

    def function(params, x):
        h = jnp.tanh(x @ params["w"]) * params["mask"]
        h = jnp.where(params["mask"] & (jnp.arange(6) < 5), h, jnp.float32(0))
        return h[:, params["where"]] @ params["o"][params["where"]]

    x = draw("float32", 3, 4)
    small = shrink(Network(function, params), x)
    # Read are 3, 1, 0 and 5; 1 is masked, and 5 by the range.
    assert small.params["w"].shape == (4, 2)
    assert small.params["mask"].dtype == bool
    np.testing.assert_allclose(
        small.function(small.params, x), function(params, x), rtol=1e-5, atol=1e-6
    )


# Settings

# Each of a list is switched on: they refuse different things, and their messages tell them apart.
SETTINGS = {
    "x64": [lambda: jax.enable_x64(True)],
    "no implicit promotion": [
        lambda: jax.numpy_dtype_promotion("strict"),
        lambda: jax.numpy_rank_promotion("raise"),
    ],
    "checks of numbers and transfers": [
        lambda: jax.debug_nans(True),
        lambda: jax.debug_infs(True),
        lambda: jax.transfer_guard("log"),
    ],
}


def clipped_log(params, x):
    """A unit that reads nothing is log(0), which is not chosen."""
    h = x @ params["first"] + params["bias"][None]
    h = jnp.where(h > 0, jnp.log(h), h)
    return h @ params["second"] + params["out"][None]


@pytest.mark.long
@pytest.mark.parametrize("setting", SETTINGS)
def test_all_of_deploy_under_settings(setting, tmp_path):
    key = jax.random.PRNGKey(0)  # of the old kind
    with contextlib.ExitStack() as settings:
        for enter in SETTINGS[setting]:
            settings.enter_context(enter())
        wide = jnp.float64 if setting == "x64" else jnp.float32
        keys = jax.random.split(key, 3)
        params = {
            "first": jax.random.normal(keys[0], (5, 6), wide).at[:, 1].set(0),
            "bias": jnp.ones(6, wide).at[1].set(0),
            "second": jax.random.normal(keys[1], (6, 3), wide),
            "out": jnp.ones(3, wide),
        }
        x = jax.random.normal(keys[2], (4, 5), wide)

        def close(found, expected):
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)

        function = clipped_log
        expected = np.asarray(jax.jit(function)(params, np.abs(x)))
        x = np.abs(np.asarray(x))
        small = shrink(Network(function, params), x)
        assert small.params["first"].shape == (5, 5)
        assert small.params["first"].dtype == wide
        close(jax.jit(small.function)(small.params, x), expected)
        close(jax.jit(function)(expand(small).params, x), expected)
        fast = compile_sparse(Network(function, params), x, rounds=1)
        close(fast(x), expected)
        program = Program(function, params, (x,))
        for kind in KINDS:
            kinds = {layer.equation: kind for layer in program.layers if kind in layer.kinds}
            close(jax.jit(lambda x, kinds=kinds: program.run(kinds, x))(x), expected)
        save_sparse(tmp_path / "net", params)
        read = load_sparse(tmp_path / "net", like=params)
        assert jax.tree.map(lambda leaf: leaf.dtype, read) == dict.fromkeys(params, wide)
        save_sparse(tmp_path / "half", params, dtype="bfloat16")
        load_sparse(tmp_path / "half")
        data = export_stablehlo(small, x, platforms=("cpu",))
        close(load_stablehlo(data)(x[:2]), expected[:2])
        export_onnx(Network(function, params), x)
        torch_state({"layer": {"kernel": params["first"], "bias": params["bias"]}})
        assert macs(function, params, x) == 5 * 6 + 6 * 3
        chain = {"a": {"kernel": params["first"], "bias": params["bias"]}}
        chain["b"] = {"kernel": params["second"], "bias": params["out"]}
        assert live_units(chain, ["a", "b"]) == [5, 5, 3]


def test_keys_that_a_function_closes_over():
    """A mask of random bits from a key of the old kind or the new one is no parameter's number."""
    params = {"w": draw("float32", 4, 6), "o": draw("float32", 6, 2)}
    params["w"][:, 1] = 0
    for key in (jax.random.PRNGKey(0), jax.random.key(0)):

        def function(params, x, key=key):
            noise = jax.random.normal(key)
            return jax.nn.relu(x @ params["w"]) @ params["o"] + noise

        x = draw("float32", 3, 4)
        small = shrink(Network(function, params), x)
        assert small.params["w"].shape == (4, 5)
        np.testing.assert_allclose(
            small.function(small.params, x), function(params, x), rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("kind", KINDS)
def test_batches_that_are_sharded_explicitly(kind):
    """As meshes of `jax.make_mesh` are: the type of an array says how it is spread."""
    params = {"w": draw("float32", 8, 6), "b": draw("float32", 6), "o": draw("float32", 6, 3)}
    params["w"][[0, 3, 4]] = 0
    params["w"][:, [1, 2]] = 0

    def function(params, x):
        return jax.nn.relu(x @ params["w"] + params["b"]) @ params["o"]

    x = draw("float32", 16, 8)
    small, program = shrink(Network(function, params), x), Program(function, params, (x,))
    kinds = {layer.equation: kind for layer in program.layers if kind in layer.kinds}
    expected = function(params, x)
    with jax.set_mesh(jax.make_mesh((8,), ("batch",))):
        there = jax.device_put(x, jax.P("batch", None))
        for found in (
            jax.jit(small.function)(small.params, there),
            jax.jit(lambda x: program.run(kinds, x))(there),
        ):
            assert found.sharding.spec == jax.P("batch", None)
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
