import flax.linen as nn
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


def test_the_published_counts_of_constrained_l0():
    """Products, and one for each entry of a bias, of a ReLU and of what pooling puts out."""

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            for channels in (20, 50):
                x = nn.relu(nn.Conv(channels, (5, 5), padding="VALID")(x))
                x = nn.max_pool(x, (2, 2), (2, 2))
            return nn.Dense(10)(nn.relu(nn.Dense(500)(x.reshape(x.shape[0], -1))))

    images = example(3, 28, 28, 1)
    params = jax.eval_shape(Net().init, jax.random.key(0), images)
    assert macs(Net().apply, params, images) == 2_293_000
    assert macs(Net().apply, params, images, count="published") == 2_327_130
    for model, shape, expected in ((LeNet300, (784,), 267_010), (LeNet5, (784,), 2_316_090)):
        graph, state = nnx.split(nnx.eval_shape(lambda model=model: model(rngs=nnx.Rngs(0))))
        function = lambda state, x, graph=graph: nnx.merge(graph, state)(x)  # noqa: E731
        assert macs(function, state, example(2, *shape), count="published") == expected


def test_inputs_without_a_batch_keep_their_shape():
    def function(w, x, t, scale):
        return x @ w @ t / scale

    for batch in (1, 5, 8):
        inputs = example(10, 8), example(batch, 10), example(8, 3), example()
        assert macs(function, *inputs) == 10 * 8 + 8 * 3
    doubtful = lambda w, x, y: (x @ w, y.T @ y)  # noqa: E731
    inputs = example(10, 8), example(2, 10), example(7, 6)
    with pytest.raises(ValueError, match=r"several lengths \(0: 2, 1: 7\)"):
        macs(doubtful, *inputs)
    assert macs(doubtful, *inputs, batched=(True, False)) == 80 + 6 * 7 * 6
    assert macs(doubtful, *inputs, batched=False) == 2 * 80 + 6 * 7 * 6
    fixed = lambda w, x: x.reshape(1, 6) @ w  # noqa: E731
    with pytest.raises(ValueError, match="batched=False keeps all"):
        macs(fixed, example(6, 4), example(2, 3))
    assert macs(fixed, example(6, 4), example(2, 3), batched=False) == 24
    pairs = lambda w, x: x.reshape(-1, 2, 6) @ w  # noqa: E731
    with pytest.raises(ValueError, match="cannot be traced for one example"):
        macs(pairs, example(6, 4), example(2, 6))
    with pytest.raises(ValueError, match="count must be one of"):
        macs(fixed, example(6, 4), example(2, 3), count="flops")


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


def test_products_in_a_loop_are_counted_in_each_step_or_refused():
    def function(params, x):
        step = lambda h, _: (jax.jit(jnp.matmul)(h, params) + params[0], None)  # noqa: E731
        return lax.scan(step, x, None, 3)[0]

    assert macs(function, example(4, 4), example(2, 4)) == 3 * 16
    assert macs(function, example(4, 4), example(2, 4), count="published") == 3 * (16 + 4)

    def unbounded(params, x):
        return lax.while_loop(lambda h: (h < 1).any(), lambda h: h @ params, x)

    with pytest.raises(ValueError, match="function holds products in a while"):
        macs(unbounded, example(4, 4), example(2, 4))
    assert macs(lambda w, x: jnp.cumsum(x @ w), example(4, 4), example(2, 4)) == 16
