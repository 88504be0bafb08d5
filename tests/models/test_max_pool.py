import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from sparsejax.models._max_pool import max_pool

SHAPES = [(3, 4, 6, 5), (2, 7, 9, 3), (1, 2, 2, 1), (2, 1, 5, 2)]


def natural(x):
    return nnx.max_pool(x, (2, 2), strides=(2, 2))


def reference_gradient(x, gradient):
    """Each window's gradient to the first of its maxima, row by row."""
    found = np.zeros_like(x)
    for n, row, column, channel in np.ndindex(*gradient.shape):
        window = x[n, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2, channel]
        i, j = divmod(int(np.argmax(window)), 2)
        found[n, 2 * row + i, 2 * column + j, channel] = gradient[n, row, column, channel]
    return found


def draw(shape, ties):
    rng = np.random.default_rng(0)
    x = rng.integers(-1, 2, shape) if ties else rng.normal(size=shape)
    gradient = rng.normal(size=(shape[0], shape[1] // 2, shape[2] // 2, shape[3]))
    return x.astype(np.float32), gradient.astype(np.float32)


@jax.jit
def both(x, gradient):
    y, pullback = jax.vjp(max_pool, x)
    wanted, natural_pullback = jax.vjp(natural, x)
    return max_pool(x), y, wanted, pullback(gradient)[0], natural_pullback(gradient)[0]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("ties", [False, True])
def test_maxima_and_gradients_also_where_entries_are_equal(shape, ties):
    x, gradient = draw(shape, ties)
    without, y, wanted, found, naturals = both(x, gradient)
    np.testing.assert_array_equal(without, wanted)
    np.testing.assert_array_equal(y, wanted)
    np.testing.assert_array_equal(found, reference_gradient(x, gradient))
    np.testing.assert_array_equal(found, naturals)


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_other_floating_point_types_stay_what_they_are(dtype):
    with jax.enable_x64(True):
        x, gradient = (jnp.asarray(a, dtype) for a in draw((2, 4, 4, 3), ties=True))
        _, y, wanted, found, _ = both(x, gradient)
        assert y.dtype == found.dtype == jnp.dtype(dtype)
        np.testing.assert_array_equal(y, wanted)
        np.testing.assert_array_equal(
            np.asarray(found, np.float64),
            reference_gradient(np.asarray(x, np.float64), np.asarray(gradient, np.float64)),
        )


def test_infinities_and_nan_come_through():
    x = np.full((1, 2, 4, 1), -np.inf, np.float32)
    x[0, 1, 2] = np.nan
    without, y, _, found, _ = both(x, np.ones((1, 1, 2, 1), np.float32))
    np.testing.assert_array_equal(y, [[[[-np.inf], [np.nan]]]])
    np.testing.assert_array_equal(y, without)
    assert found.sum() == 2


def test_over_models_and_under_scan_the_numbers_are_the_same():
    x, gradient = draw((3, 6, 5, 4), ties=True)
    xs, gradients = np.stack([x, -x, 2 * x]), np.stack([gradient] * 3)

    def pull(x, gradient):
        return jax.vjp(max_pool, x)[1](gradient)[0]

    wanted = np.stack([reference_gradient(*a) for a in zip(xs, gradients, strict=True)])

    @jax.jit
    def run(xs, gradients):
        scanned = lax.scan(lambda _, a: (None, pull(*a)), None, (xs, gradients))[1]
        return jax.vmap(pull)(xs, gradients), scanned

    for found in run(xs, gradients):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(("platform", "windows"), [("cpu", 0), ("cuda", 1), ("tpu", 1)])
def test_other_platforms_than_the_cpu_keep_their_own(platform, windows):
    x = jnp.ones((2, 4, 4, 3))
    traced = jax.jit(jax.grad(lambda x: (max_pool(x) ** 2).sum())).trace(x)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert text.count("select_and_scatter") == windows
