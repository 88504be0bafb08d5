import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from sparsejax.inspection import macs
from sparsejax.models import LeNet5, LeNet300, ResNet20


def example(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def convolve(x, kernel, **options):
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, dimension_numbers=numbers, **options)


@pytest.mark.parametrize(
    ("model", "shape", "expected"),
    [
        (LeNet300, (784,), 784 * 300 + 300 * 100 + 100 * 10),
        # A custom convolution: what is computed forwards counts, no patches of the backward pass.
        (LeNet5, (28, 28, 1), 24**2 * 500 + 8**2 * 25_000 + 800 * 500 + 500 * 10),
        (ResNet20, (32, 32, 3), 40_551_040),
    ],
)
@pytest.mark.parametrize("batch", [1, 5])
def test_networks_of_the_papers(model, shape, expected, batch):
    graph, state = nnx.split(nnx.eval_shape(lambda: model(rngs=nnx.Rngs(0))))
    function = lambda state, x: nnx.merge(graph, state)(x)  # noqa: E731
    assert macs(function, state, example(batch, *shape)) == expected


def test_zeros_count_and_what_nothing_reads_does_not():
    def function(params, x):
        hidden = jax.jit(jnp.matmul)(x, params["first"])
        jnp.matmul(hidden, params["first"].T)
        return jax.nn.relu(hidden) @ params["second"]

    params = {"first": np.zeros((20, 30)), "second": np.zeros((30, 10))}
    assert macs(function, params, np.zeros((4, 20))) == 600 + 300


@pytest.mark.parametrize(
    ("options", "kernel", "expected"),
    [
        ({"window_strides": (1, 1), "padding": "SAME"}, (3, 3, 8, 6), 64 * 9 * 8 * 6),
        ({"window_strides": (2, 2), "padding": "VALID"}, (3, 3, 8, 6), 9 * 9 * 8 * 6),
        (
            {"window_strides": (1, 1), "padding": "SAME", "feature_group_count": 4},
            (3, 3, 2, 12),
            64 * 9 * 2 * 12,
        ),
    ],
)
def test_convolutions_count_each_position_and_weight(options, kernel, expected):
    function = lambda kernel, x: convolve(x, kernel, **options)  # noqa: E731
    assert macs(function, example(*kernel), example(2, 8, 8, 8)) == expected


def test_a_product_over_several_dimensions_and_batches():
    function = lambda w, x: jnp.einsum("bhij,hijk->bhk", x, w)  # noqa: E731
    assert macs(function, example(2, 3, 4, 5), example(7, 2, 3, 4)) == 2 * 3 * 4 * 5


def test_products_in_a_loop_are_refused():
    def function(params, x):
        return lax.scan(lambda h, _: (jax.jit(jnp.matmul)(h, params), None), x, None, 3)[0]

    with pytest.raises(ValueError, match="function holds products in a scan"):
        macs(function, example(4, 4), example(2, 4))
    assert macs(lambda w, x: jnp.cumsum(x @ w), example(4, 4), example(2, 4)) == 16
