import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec
from jax.test_util import check_grads

from sparsejax.models._convolution import conv_general_dilated

NUMBERS = ("NHWC", "HWIO", "NHWC")
CASES = {  # images, kernel, padding
    "lenet5_first": ((3, 14, 14, 1), (5, 5, 1, 20), "VALID"),
    "lenet5_second": ((3, 8, 8, 20), (5, 5, 20, 7), "VALID"),
    "same": ((2, 6, 5, 3), (3, 3, 3, 4), "SAME"),
    "same_even": ((2, 5, 6, 3), (2, 4, 3, 2), "SAME"),
    "uneven": ((1, 4, 7, 2), (2, 3, 2, 5), ((2, 0), (1, 3))),
    "pointwise": ((4, 3, 2, 6), (1, 1, 6, 3), "VALID"),
    "wide_padding": ((2, 2, 2, 1), (2, 2, 1, 1), ((3, 3), (3, 3))),
}


def ours(x, kernel, padding):
    return conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=NUMBERS)


def laxs(x, kernel, padding, **options):
    options = {"window_strides": (1, 1), "dimension_numbers": NUMBERS, **options}
    return lax.conv_general_dilated(x, kernel, padding=padding, **options)


def draw(case, dtype=np.float64):
    shape, kernel_shape, padding = CASES[case]
    rng = np.random.default_rng(list(CASES).index(case))
    x, kernel = rng.normal(size=shape), rng.normal(size=kernel_shape)
    if not isinstance(padding, str):
        padding = tuple(padding)
    return x.astype(dtype), kernel.astype(dtype), padding


def reference(x, kernel, padding, gradient=None):
    """The sum that defines a convolution and its two gradients, in float64."""
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    rows, columns = kernel.shape[:2]
    pads = padding
    if padding == "SAME":
        pads = [((n - 1) // 2, n // 2) for n in (rows, columns)]
    elif padding == "VALID":
        pads = [(0, 0), (0, 0)]
    x = np.pad(x, ((0, 0), *pads, (0, 0)))
    height, width = x.shape[1] - rows + 1, x.shape[2] - columns + 1
    y = np.zeros((len(x), height, width, kernel.shape[3]))
    if gradient is None:
        gradient = y
    of_x, of_kernel = np.zeros_like(x), np.zeros_like(kernel)
    for i, j in itertools.product(range(rows), range(columns)):
        window = np.s_[:, i : i + height, j : j + width]
        y += x[window] @ kernel[i, j]
        of_kernel[i, j] = np.einsum("nhwc,nhwo->co", x[window], gradient)
        of_x[window] += gradient @ kernel[i, j].T
    (top, bottom), (left, right) = pads
    return y, of_x[:, top : x.shape[1] - bottom, left : x.shape[2] - right], of_kernel


def value_and_gradients(convolve, x, kernel, padding, gradient):
    y, pullback = jax.vjp(lambda x, kernel: convolve(x, kernel, padding), x, kernel)
    return y, *pullback(jnp.asarray(gradient, y.dtype))


def gradient_like(y):
    return np.random.default_rng(99).normal(size=y.shape)


TYPES = [("float64", 1e-13, case) for case in CASES]
TYPES += [("float32", 1e-5, "lenet5_second"), ("float32", 1e-5, "uneven")]
TYPES += [("bfloat16", 2e-2, "lenet5_first"), ("bfloat16", 2e-2, "uneven")]


@pytest.mark.parametrize(("dtype", "tolerance", "case"), TYPES)
def test_value_and_both_gradients_are_those_of_the_definition(case, dtype, tolerance):
    with jax.enable_x64(dtype == "float64"):
        x, kernel, padding = draw(case)
        x, kernel = jnp.asarray(x, dtype), jnp.asarray(kernel, dtype)
        gradient = jnp.asarray(gradient_like(reference(x, kernel, padding)[0]), dtype)
        wanted = reference(x, kernel, padding, np.asarray(gradient, np.float64))

        @jax.jit
        def run(x, kernel, gradient):
            without = ours(x, kernel, padding)
            return without, *value_and_gradients(ours, x, kernel, padding, gradient)

        found = run(x, kernel, gradient)
    assert {a.dtype for a in found} == {jnp.dtype(dtype)}
    for got, want in zip(found, (wanted[0], *wanted), strict=True):
        scale = np.abs(want).max()
        np.testing.assert_allclose(np.asarray(got, np.float64), want, atol=tolerance * scale)


@pytest.mark.parametrize("case", ["lenet5_first", "same_even"])
def test_agrees_with_lax_without_jit(case):
    with jax.enable_x64(True):
        x, kernel, padding = draw(case)
        gradient = gradient_like(laxs(x, kernel, padding))
        found = value_and_gradients(ours, jnp.asarray(x), jnp.asarray(kernel), padding, gradient)
        wanted = value_and_gradients(laxs, x, kernel, padding, gradient)
        for got, want in zip(found, wanted, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)


def test_first_and_second_derivatives_are_those_of_finite_differences():
    with jax.enable_x64(True):
        x, kernel, padding = draw("uneven")
        x, kernel = jnp.asarray(x), jnp.asarray(kernel)
        square = jax.jit(lambda x, kernel: (ours(x, kernel, padding) ** 2).sum())
        check_grads(square, (x, kernel), order=2, modes=["rev"])


def test_over_models_and_under_scan_the_numbers_are_the_same():
    x, kernel, padding = draw("lenet5_second", np.float32)
    xs, kernels = np.stack([x, x[::-1]]), np.stack([kernel, -kernel])
    gradient = gradient_like(reference(x, kernel, padding)[0])

    def both(x, kernel):
        return value_and_gradients(ours, x, kernel, padding, gradient)

    @jax.jit
    def run(xs, kernels):
        mapped = jax.vmap(both)(xs, kernels)
        shared = jax.vmap(both, in_axes=(0, None))(xs, kernels[0])
        return mapped, shared, lax.scan(lambda _, a: (None, both(*a)), None, (xs, kernels))[1]

    mapped, shared, scanned = run(xs, kernels)
    for row in range(2):
        wanted = reference(xs[row], kernels[row], padding, gradient)
        for got in (mapped, scanned):
            for a, b in zip(got, wanted, strict=True):
                np.testing.assert_allclose(a[row], b, atol=1e-3)
        for a, b in zip(shared, reference(xs[row], kernel, padding, gradient), strict=True):
            np.testing.assert_allclose(a[row], b, atol=1e-3)


def test_a_batch_on_many_devices_has_the_same_gradients():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    _, kernel, padding = draw("lenet5_second", np.float32)
    x = np.random.default_rng(0).normal(size=(8, 8, 8, 20)).astype(np.float32)
    gradient = gradient_like(laxs(x, kernel, padding))
    wanted = value_and_gradients(laxs, x, kernel, padding, gradient)
    placed = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    found = jax.jit(value_and_gradients, static_argnums=(0, 3))(
        ours, placed, kernel, padding, gradient
    )
    for got, want in zip(found, wanted, strict=True):
        np.testing.assert_allclose(got, want, atol=2e-4)


@pytest.mark.parametrize(("platform", "convolutions"), [("cpu", 0), ("cuda", 2), ("tpu", 2)])
def test_other_platforms_than_the_cpu_keep_their_convolutions(platform, convolutions):
    x, kernel, padding = draw("lenet5_first", np.float32)

    def loss(kernel, x):
        return (ours(x, kernel, padding) ** 2).sum()

    traced = jax.jit(jax.grad(loss)).trace(kernel, x)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert text.count("stablehlo.convolution") == convolutions


def test_without_a_gradient_there_are_no_patches():
    x, kernel, padding = draw("lenet5_second", np.float32)
    text = jax.jit(ours, static_argnums=2).lower(x, kernel, padding).as_text()
    assert text.count("stablehlo.convolution") == 1
    assert "concatenate" not in text


OTHERS = [
    ((2, 6, 6, 3), (3, 3, 3, 4), {"window_strides": (2, 1)}),
    ((2, 6, 6, 3), (3, 3, 3, 4), {"lhs_dilation": (1, 2), "padding": ((0, 0), (1, 0))}),
    ((2, 6, 6, 3), (3, 3, 3, 4), {"rhs_dilation": (2, 2), "padding": "SAME"}),
    ((2, 6, 6, 3), (3, 3, 3, 4), {"padding": ((-1, 0), (0, 1))}),
    ((2, 3, 6, 6), (4, 3, 3, 3), {"dimension_numbers": None}),
    ((2, 6, 3), (3, 3, 4), {"dimension_numbers": ("NHC", "HIO", "NHC")}),
]


def with_options(convolve, x, options):
    arguments = {"padding": "VALID", "window_strides": (1,) * (x.ndim - 2)}
    arguments |= {"dimension_numbers": NUMBERS, **options}
    return lambda x, kernel: convolve(x, kernel, **arguments)


@pytest.mark.parametrize(
    ("x_shape", "kernel_shape", "options"),
    [
        ((2, 6, 6, 4), (3, 3, 2, 4), {"feature_group_count": 2}),
        ((2, 6, 6, 3), (3, 3, 3, 4), {"batch_group_count": 2}),
        ((2, 6, 6, 3), (3, 3, 3, 4), {"preferred_element_type": np.float32}),
        ((0, 6, 6, 3), (3, 3, 3, 4), {}),
    ],
)
def test_what_it_does_not_cover_is_lax_s(x_shape, kernel_shape, options):
    x, kernel = jnp.ones(x_shape, jnp.bfloat16), jnp.ones(kernel_shape, jnp.bfloat16)

    def program(convolve):
        return str(jax.make_jaxpr(with_options(convolve, x, options))(x, kernel))

    assert program(conv_general_dilated) == program(lax.conv_general_dilated)


def test_what_lax_refuses_is_refused_in_its_words():
    x, kernel, _ = draw("same", np.float32)
    with pytest.raises(ValueError, match="feature"):
        ours(x[..., :2], kernel, "VALID")
    with pytest.raises(TypeError, match="dtype"):
        ours(x, kernel.astype(np.float16), "VALID")


def test_a_flax_layer_with_it_is_the_same_layer():
    def layer(**options):
        return nnx.Conv(3, 4, (3, 3), padding="SAME", rngs=nnx.Rngs(0), **options)

    x = jnp.asarray(draw("same", np.float32)[0])

    def gradients(layer):
        graph, params = nnx.split(layer)
        return jax.jit(jax.grad(lambda params: (nnx.merge(graph, params)(x) ** 3).sum()))(params)

    found = gradients(layer(conv_general_dilated=conv_general_dilated))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-4), found, gradients(layer()))
