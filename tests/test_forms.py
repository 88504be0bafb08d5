import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.compression import (
    LowRankArray,
    QuantizedArray,
    RoundedArray,
    SumArray,
    decode,
)
from sparsejax.projections import low_rank_factors, project_low_rank


def quantised(dtype=jnp.float32):
    return QuantizedArray(
        jnp.asarray([-1.5, 0, 2], dtype), jnp.asarray([[0, 2], [1, 1], [2, 0]], jnp.uint8)
    )


def test_decode_gives_arrays_and_leaves_the_rest_of_the_tree():
    plain = jnp.arange(6.0).reshape(3, 2)
    tree = {"q": quantised(), "sum": [SumArray((quantised(), plain))], "plain": plain, "none": None}
    found = decode(tree)
    expected = np.asarray([[-1.5, 2], [0, 0], [2, -1.5]])
    np.testing.assert_array_equal(found["q"], expected)
    np.testing.assert_array_equal(found["sum"][0], expected + plain)
    assert found["plain"] is plain
    assert found["none"] is None
    for form in (tree["q"], tree["sum"][0]):
        assert (form.shape, form.ndim, form.size, form.dtype) == ((3, 2), 2, 6, jnp.float32)


def test_forms_are_pytrees_that_compute_under_jit_and_vmap():
    form = SumArray((quantised(), RoundedArray(jnp.ones((3, 2), jnp.float16), jnp.float32)))
    x = jnp.arange(3.0)
    expected = x @ form.dense()
    call = lambda params, x: x @ decode(params)["w"]  # noqa: E731
    np.testing.assert_array_equal(jax.jit(call)({"w": form}, x), expected)
    moved = jax.tree.map(lambda leaf: leaf, form)
    np.testing.assert_array_equal(moved.dense(), form.dense())
    stack = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), form)
    np.testing.assert_array_equal(
        jax.vmap(call, (0, None))({"w": stack}, x), jnp.stack([expected, expected])
    )
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(form)]
    assert paths == [".parts[0].codebook", ".parts[0].codes", ".parts[1].values"]


@pytest.mark.parametrize("scheme", ["channel", "spatial"])
@pytest.mark.parametrize("shape", [(5, 4), (3, 2, 4, 5)])
def test_factors_are_those_of_two_layers(scheme, shape):
    kernel = jax.random.normal(jax.random.key(0), shape)
    low = project_low_rank(kernel, 2, lambda path, leaf: True, scheme=scheme)
    first, second = low_rank_factors(kernel, 2, scheme=scheme)
    if len(shape) == 4 and scheme == "spatial":
        left, right = first.reshape(-1, 2), jnp.moveaxis(second, 2, 0).reshape(2, -1)
    else:
        left, right = first.reshape(-1, 2), second.reshape(2, -1)
    form = LowRankArray(left, right, shape, scheme)
    assert form.rank == 2
    assert form.size == kernel.size
    np.testing.assert_allclose(form.dense(), low, atol=1e-5)
    numpy = jax.tree.map(np.asarray, form)
    assert isinstance(numpy.dense(), np.ndarray)
    np.testing.assert_allclose(numpy.dense(), low, atol=1e-5)


def test_stacked_factors():
    a, b = np.random.default_rng(0).normal(size=(2, 3, 4, 4))
    form = LowRankArray(a[..., :1], b[:, :1], (3, 4, 4), "channel", 1)
    np.testing.assert_allclose(form.dense(), np.einsum("sir,srj->sij", a[..., :1], b[:, :1]))


def test_arrays_of_numpy_keep_float64():
    form = SumArray((QuantizedArray(np.asarray([1 / 3]), np.zeros((2, 2), np.uint8)), np.eye(2)))
    assert form.dense().dtype == np.float64
    np.testing.assert_array_equal(form.dense(), 1 / 3 + np.eye(2))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_sums_are_added_in_float32_or_wider(dtype):
    ones = jnp.full((2,), 1.0, dtype)
    small = jnp.full((2,), 2.0**-9, dtype)  # lost in bfloat16 beside 1, but twice it is not
    form = SumArray((ones, small, small))
    assert form.dense().dtype == dtype
    wide = 1 + 2.0**-8
    np.testing.assert_array_equal(form.dense(), np.full(2, wide).astype(dtype))
    assert dtype == jnp.float32 or (ones + small + small == 1).all()


def test_empty_arrays():
    for shape in [(0,), (3, 0)]:
        empty = QuantizedArray(jnp.zeros(0), jnp.zeros(shape, jnp.uint8))
        assert empty.dense().shape == shape
        assert jax.jit(lambda f: f.dense())(empty).shape == shape
        assert jax.tree.map(np.asarray, empty).dense().shape == shape
    nothing = LowRankArray(jnp.zeros((3, 0)), jnp.zeros((0, 2)), (3, 2))
    np.testing.assert_array_equal(nothing.dense(), np.zeros((3, 2)))
