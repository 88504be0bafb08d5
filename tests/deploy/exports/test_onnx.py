"""What is exported computes the same in onnxruntime, for other batch sizes too."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
from flax import nnx
from jax import lax

from sparsejax.deploy import Network, export_onnx, shrink
from sparsejax.models import LeNet5, LeNet300, ResNet20, VGG16Cifar
from tests.deploy.exports.networks import network
from tests.deploy.shrinking.test_attention import decoder

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def computed(data, *inputs):
    """The outputs of a file for the arrays, in order."""
    onnx.checker.check_model(onnx.load_from_string(data), full_check=True)
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    return session.run(None, dict(zip(names, inputs, strict=True)))


def assert_close(found, wanted):
    """Within 1e-5 of the largest output."""
    wanted = np.asarray(wanted)
    assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def assert_same(data, function, params, inputs, sizes=(1, 5)):
    for size in sizes:
        batch = [array[:size] for array in inputs]
        wanted = jax.tree.leaves(jax.jit(function)(params, *batch))
        for one, other in zip(computed(data, *batch), wanted, strict=True):
            assert_close(one, other)


def without_units(params, rng):
    """Every third unit of the hidden layers is dead, and so are some of the inputs."""

    def prune(path, leaf):
        if "kernel" not in jax.tree_util.keystr(path) or leaf.shape[-1] == 10:
            return leaf
        units = np.arange(leaf.shape[-1]) % 3 > 0
        inputs = rng.random(leaf.shape[-2]) < 0.8 if leaf.shape[-2] > 3 else np.array(True)
        return leaf * units * inputs[..., None]

    return jax.tree_util.tree_map_with_path(prune, params)


# Networks


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (LeNet300, (28, 28, 1)),
        (LeNet5, (28, 28, 1)),
        (lambda rngs: ResNet20(width=0.25, rngs=rngs), (32, 32, 3)),
        (lambda rngs: VGG16Cifar(width=0.06, rngs=rngs), (32, 32, 3)),
    ],
    ids=["lenet300", "lenet5", "resnet20", "vgg16_cifar"],
)
def test_networks_whole_and_shrunk(make, shape):
    function, params = network(lambda: make(rngs=nnx.Rngs(0)), RNG)
    images = normal(5, *shape)
    sparse = without_units(params, RNG)
    small = shrink(Network(function, sparse), images[:2])
    files = [
        export_onnx(Network(function, params), images[:2]),
        export_onnx(small, images[:2]),
    ]
    assert len(files[1]) < 0.8 * len(files[0])
    for data, numbers in zip(files, (params, sparse), strict=True):
        wanted = jax.jit(function)(numbers, images)
        for size in (1, 2, 5):
            (found,) = computed(data, images[:size])
            assert_close(found, wanted[:size])


def test_the_file_holds_the_parameters_by_name_and_an_open_batch():
    function, params = network(lambda: LeNet5((4, 5, 6), rngs=nnx.Rngs(0)), RNG)
    data = export_onnx(Network(function, params), jax.ShapeDtypeStruct((1, 28, 28, 1), jnp.float32))
    graph = onnx.load_from_string(data).graph
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    np.testing.assert_array_equal(stored["dense1/kernel"], params["dense1"]["kernel"][...])
    np.testing.assert_array_equal(
        stored["conv2/kernel"], params["conv2"]["kernel"][...].transpose(3, 2, 0, 1)
    )
    np.testing.assert_array_equal(stored["conv1/bias"].ravel(), params["conv1"]["bias"][...])
    (read,), (put_out,) = graph.input, graph.output
    assert (read.name, put_out.name) == ("input0", "output")
    shapes = [[d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim]
              for v in (read, put_out)]  # fmt: skip
    assert shapes == [["batch", 28, 28, 1], ["batch", 10]]
    assert {node.op_type for node in graph.node} == {
        "Add", "Conv", "Identity", "MatMul", "MaxPool", "Relu", "Reshape", "Transpose"
    }  # fmt: skip


def test_trees_of_inputs_and_outputs():
    params = {"a": normal(3, 4), "b": normal(2, 4)}

    def function(params, x, y):
        hidden = x @ params["a"] + y["mask"] * (y["z"] @ params["b"])
        return {"sum": hidden.sum(-1), "both": (hidden, x), "number": params["b"] * 2}

    inputs = normal(5, 3), {"mask": normal(5, 4), "z": normal(5, 2)}
    data = export_onnx(Network(function, params), *inputs)
    model = onnx.load_from_string(data)
    assert [value.name for value in model.graph.input] == ["input0", "input1/mask", "input1/z"]
    assert [value.name for value in model.graph.output] == [
        "output/both/0", "output/both/1", "output/number", "output/sum"
    ]  # fmt: skip
    found = computed(data, *jax.tree.leaves(inputs))
    for one, other in zip(found, jax.tree.leaves(function(params, *inputs)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


# Batches


def dimensions(data):
    graph = onnx.load_from_string(data).graph
    return [
        [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    ]


def test_an_input_without_a_batch_keeps_its_shape():
    params = normal(10, 8)

    def function(p, x, t, scale):
        return x @ p @ t / scale + t[0]

    x, t, scale = normal(5, 10), normal(8, 3), np.full((), 2, np.float32)
    for batch in (1, 2, 8):  # as many as t has rows, too
        data = export_onnx(Network(function, params), np.zeros((batch, 10), np.float32), t, scale)
        assert dimensions(data) == [["batch", 10], [8, 3], [], ["batch", 3]]
    for size in (1, 5):
        (found,) = computed(data, x[:size], t, scale)
        assert_close(found, function(params, x[:size], t, scale))
    three = np.full((), 3, np.float32)
    (found,) = computed(data, x, 2 * t, three)  # they are inputs, not constants
    assert_close(found, function(params, x, 2 * t, three))
    # The first input has no batch, so the batch is read off the second.
    data = export_onnx(
        Network(lambda p, t, x: (jnp.zeros((len(x), 3)) + t[0], x @ p @ t), params),
        t,
        normal(2, 10),
    )
    for one, other in zip(computed(data, t, x), (np.zeros((5, 3)) + t[0], x @ params @ t),
                          strict=True):  # fmt: skip
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_what_is_in_doubt_has_to_be_told():
    params = normal(10, 3)

    def function(p, x, t):
        return x @ p + t.sum(0)

    x, t = normal(2, 10), normal(8, 3)
    with pytest.raises(
        ValueError, match=r"several lengths \(0: 2, 1: 8\).* by batched=\(True, Fal"
    ):
        export_onnx(Network(function, params), x, t)
    data = export_onnx(Network(function, params), x, t, batched=(True, False))
    assert dimensions(data) == [["batch", 10], [8, 3], ["batch", 3]]
    (found,) = computed(data, normal(5, 10) * 0, t)
    assert_close(found, np.zeros((5, 1), np.float32) + t.sum(0))
    whole = export_onnx(Network(function, params), x, t, batched=False)
    assert dimensions(whole) == [[2, 10], [8, 3], [2, 3]]
    with pytest.raises(ValueError, match=r"fails \(TypeError: .*batched=False keeps"):
        export_onnx(Network(lambda p, x: x.T @ p, normal(4, 3)), normal(4, 2))
    with pytest.raises(ValueError, match="batched says that input 1 has a batch; it is a scalar"):
        export_onnx(Network(function, params), x, np.float32(1), batched=True)


@pytest.mark.parametrize(
    "function",
    [
        lambda p, x: x[: len(x) // 2] * p[0],
        lambda p, x: jnp.where(len(x) < 5, x, -x),
        lambda p, x: x if len(x) < 5 else -x,
    ],
)
def test_what_is_alike_for_small_batches_alone_is_refused(function):
    with pytest.raises(ValueError, match="must compute the same for every batch size; it"):
        export_onnx(Network(function, normal(2)), normal(2, 3))


# Operations


def convolve(x, kernel, padding, **options):
    options = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), **options}
    return lax.conv_general_dilated(x, kernel, options.pop("strides", (1, 1)), padding, **options)


KERNEL = normal(3, 2, 4, 6)


@pytest.mark.parametrize(
    "function",
    [
        lambda p, x: convolve(x, p, "SAME", strides=(2, 1)),
        lambda p, x: convolve(x, p, ((2, 0), (1, 3)), rhs_dilation=(2, 1)),
        lambda p, x: convolve(x, p[:, :, :1].reshape(3, 2, 1, 6)[..., :4], "VALID",
                              feature_group_count=4),
        lambda p, x: convolve(x, p[:, :, :2], "VALID", feature_group_count=2),
        lambda p, x: convolve(x.transpose(3, 1, 0, 2), p.transpose(3, 2, 0, 1), "SAME",
                              dimension_numbers=("CHNW", "OIHW", "WNCH")),
        lambda p, x: lax.conv_transpose(x, p, (2, 3), "SAME"),
        lambda p, x: convolve(x, p, ((5, 0), (1, 3)), lhs_dilation=(3, 1), rhs_dilation=(2, 1),
                              strides=(2, 1)),
        lambda p, x: convolve(x, p[:, :, :2], ((1, 1), (-1, 0)), lhs_dilation=(1, 2),
                              feature_group_count=2),
        lambda p, x: nnx.max_pool(x, (3, 2), (2, 1), "SAME"),
        lambda p, x: -nnx.min_pool(x, (2, 2), (2, 2), ((1, 0), (0, 1))),
        lambda p, x: nnx.avg_pool(x, (3, 3), (2, 2), "SAME", count_include_pad=False),
        lambda p, x: nnx.avg_pool(x, (1, 4)),
        lambda p, x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 1, 1, 1), "VALID",
                                       window_dilation=(1, 2, 3, 1)),
        lambda p, x: lax.reduce_window(x, 0.0, lax.add, (1, 2, 1, 3), (1, 1, 1, 2),
                                       ((0, 0), (1, 0), (0, 0), (0, 2))),
        lambda p, x: lax.reduce_window(x, 0.0, lax.add, (1, 3, 2, 1), (1, 2, 1, 1),
                                       ((0, 0), (0, 2), (1, 0), (0, 0)),
                                       window_dilation=(1, 1, 3, 1)),
        lambda p, x: nnx.avg_pool(jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0))), (2, 2)),
        lambda p, x: lax.reduce_window(jnp.pad(x, ((0, 0), (0, 0), (0, 1), (0, 1))), 0.0, lax.add,
                                       (1, 1, 2, 2), (1, 1, 1, 1), "VALID"),
    ],
)  # fmt: skip
def test_convolutions_and_pools(function):
    images = normal(5, 7, 6, 4)
    assert_same(export_onnx(Network(function, KERNEL), images), function, KERNEL, [images])


def attention(params, x):
    """Softmax, layer norm, products over batches of matrices."""
    x = (x - x.mean(-1, keepdims=True)) * lax.rsqrt(x.var(-1, keepdims=True) + 1e-5)
    weights = jax.nn.softmax(jnp.einsum("bqc,bkc->bqk", x @ params, x))
    return jnp.einsum("bqk,bkc->bcq", weights, x)


def activations(params, x):
    x = x @ params
    return [
        jax.nn.gelu(x), jax.nn.silu(x), jnp.tanh(x), jax.nn.relu6(9 * x), jax.nn.leaky_relu(x),
        jax.nn.relu(-x), lax.erf(x), jnp.clip(x, -0.2, 0.3), x**3, jnp.sqrt(abs(x)) / jnp.exp(x),
        jnp.square(x), jnp.log(1 + x**2), jnp.minimum(x, 0.1), jnp.sign(x) * jnp.floor(x),
        jnp.ceil(x), jnp.sin(x) - jnp.cos(x), abs(x) ** 1.5, lax.clamp(-0.1, x, 0.1),
        jnp.where((x > 0) & (x != 1) | ~(x <= -1), x, params[0, 0]),
        jnp.where((x < 0.5) | (x >= 1), 0, x), lax.stop_gradient(x), lax.rsqrt(abs(x)), x**-2,
        jax.nn.elu(x), jax.nn.selu(x), jax.nn.softplus(x), jax.nn.mish(x), jnp.exp2(x),
        jax.nn.gelu(x, approximate=False), jnp.round(4 * x), lax.round(4 * x),
    ]  # fmt: skip


def parts(params, x):
    """Slices, strides, pads, joints and fixed indices."""
    first, second = jnp.split(x.reshape(-1, 3, 2, 4), [1], axis=1)
    joined = jnp.concatenate([second[:, :, 1:], first[:, :, ::2]], axis=1)
    padded = jnp.pad(joined[..., jnp.asarray([3, 0, 0])], ((0, 0), (1, 0), (0, 2), (0, 0)))
    return lax.expand_dims(padded.squeeze(), (1,)).transpose(2, 0, 3, 1, 4)[..., -1]


def indices(params, x):
    """The same places in several spellings."""
    x = x.reshape(-1, 6, 4)
    return [
        x[:, -1], jnp.take(x, 2, axis=1), lax.dynamic_index_in_dim(x, -2, 1), x[:, ::-1, 1:],
        jnp.flip(x, (1, 2)), lax.dynamic_slice(x, (0, 9, 1), (len(x), 2, 2)), x[..., None, 0],
        jax.vmap(lambda one: jnp.take(one, 2, axis=0))(x), jnp.stack([x[:, 0], x[:, 3]], 1),
        jnp.tile(x, (1, 2, 1)), list(x.swapaxes(0, 1))[1],
    ]  # fmt: skip


def broadcasts(params, x):
    ones = jnp.broadcast_to(params[:, None], (len(x), 4, 3, 4)) + jnp.ones((len(x), 1, 1, 1))
    twice = jnp.broadcast_to(params[0], (2 * len(x), 4))
    return ones, twice, x.max(0) - x.min(0), x.reshape(-1).sum()


def types(params, x):
    whole = (4 * x).astype(jnp.int32)
    return lax.div(whole, 3), whole * params[0, 0], (x > 0).astype(jnp.uint8), (x < 0) & (x != 0)


@pytest.mark.parametrize(
    ("function", "shape"),
    [
        (attention, (5, 3, 4)),
        (activations, (5, 4)),
        (parts, (5, 24)),
        (indices, (5, 24)),
        (broadcasts, (5, 4)),
        (lambda p, x: jnp.einsum("ab,cb->ac", p.T, x), (5, 4)),
        (lambda p, x: p @ x.T @ x, (5, 4)),
        (types, (5, 4)),
    ],
)  # fmt: skip
def test_operations(function, shape):
    params, x = normal(4, 4), normal(*shape)
    assert_same(export_onnx(Network(function, params), x), function, params, [x], sizes=(2, 5))


@pytest.mark.parametrize(
    "take",
    [
        lambda p, ids: p[ids],
        lambda p, ids: p[:, ids % 4],
        lambda p, ids: jnp.take(p, ids, axis=0),
        lambda p, ids: jnp.take(p.T[:, None], ids - 1, axis=2, mode="clip"),
        lambda p, ids: jnp.take((9 * p).astype(jnp.int32), ids, axis=0),
        lambda p, ids: p.at[ids[:, 0]].get(mode="fill", fill_value=3),
    ],
)
def test_token_ids(take):
    """Those out of bounds, too: ids of 5 and more are."""
    params = jnp.asarray(normal(5, 4))
    ids = np.asarray([[0, 4, -1], [6, 2, -7], [3, 3, 1]], np.int32)
    data = export_onnx(Network(take, params), ids[:2])
    for size in (1, 3):
        (found,) = computed(data, ids[:size])
        wanted = np.asarray(take(params, ids[:size]))
        assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
        np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_what_depends_on_parameters_alone_is_computed_once():
    params = normal(4, 4)

    def function(params, x):
        mask = jnp.abs(params) > jnp.arange(4) / 4
        return x @ jnp.where(mask, params, 0)

    data = export_onnx(Network(function, params), normal(2, 4))
    assert_same(data, function, params, [normal(5, 4)])
    graph = onnx.load_from_string(data).graph
    assert [node.op_type for node in graph.node] == ["MatMul", "Identity"]
    assert [tensor.name for tensor in graph.initializer] == ["constant"]


def test_bfloat16_and_float16_are_kept():
    for dtype, kind in (
        (jnp.bfloat16, onnx.TensorProto.BFLOAT16),
        (jnp.float16, onnx.TensorProto.FLOAT16),
    ):
        params = jnp.asarray(normal(4, 3), dtype)
        data = export_onnx(Network(lambda p, x: x @ p, params), jnp.ones((2, 4), dtype))
        graph = onnx.load_from_string(data).graph
        assert {v.type.tensor_type.elem_type for v in (*graph.input, *graph.output)} == {kind}
        stored = onnx.numpy_helper.to_array(graph.initializer[0])
        np.testing.assert_array_equal(stored.astype(np.float32), params.astype(jnp.float32))


# Refusals


def dilated(p, x):
    return convolve(x, x.max(0)[:2, :3, :, None], ((0, 0), (0, 0)), lhs_dilation=(2, 1))


def chosen(p, x):
    x = x[:, :, 0, 0]
    return jnp.take_along_axis(x, (x > 0).astype(jnp.int32), axis=1)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda p, x: jnp.sort(x), "the operation sort, which .* it understands .*, conv_general"),
        (lambda p, x: lax.cummax(x, 1), "the operation cummax, which"),
        (dilated, "conv_general_dilated of a dilated operand with weights that"),
        (lambda p, x: convolve(x, KERNEL, ((-1, 0), (0, 0))), "dilated with negative padding"),
        (lambda p, x: x[1:], "must compute the same for every batch size; .* no multiple"),
        (lambda p, x: lax.slice_in_dim(x, 0, 2), "operation slice along the batch"),
        (lambda p, x: x / len(x), "same for every batch size; it computes with its number"),
        (
            lambda p, x: x if len(x) < 3 else -x,
            "same for every batch size; it computes differently",
        ),
        (
            lambda p, x: jnp.pad(x[:, 0, 0, 0], (0, 24 - len(x))),
            "it has pad with another padding_c",
        ),
        (chosen, "operation gather other than at fixed indices, or at any of one dim"),
        (
            lambda p, x: lax.dynamic_index_in_dim(x, (x.sum() > 0).astype(int), 1),
            "operation dynamic_slice from starts that are not fixed",
        ),
        (lambda p, x: x[::-1], "operation rev along the batch"),
        (lambda p, x: lax.pad(x, 0.0, ((0, 0, 0), *((0, 0, 1),) * 3)), "operation pad between"),
        (
            lambda p, x: nnx.max_pool(x.astype(int), (2, 2)),
            "on a dtype or shape that ONNX does not allow",
        ),
        (
            lambda p, x: lax.reduce_window(
                x[:, :2],
                0.0,
                lax.add,
                (1, 2, 1, 1),
                (1, 1, 1, 1),
                ((0, 0), (1, 1), (0, 0), (0, 0)),
                None,
                (1, 3, 1, 1),
            ),
            "reduce_window_sum with windows in the padding alone",
        ),
        (lambda p, x: x.astype(jnp.float8_e4m3b11fnuz), "dtype float8_e4m3b11fnuz, which ONNX"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(function, message):
    with pytest.raises(ValueError, match=message):
        export_onnx(Network(function, normal(2)), jax.ShapeDtypeStruct((4, 6, 6, 4), jnp.float32))


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="inputs must hold at least one array; got none"):
        export_onnx(Network(lambda p: p, jnp.ones(3)))
    with pytest.raises(ValueError, match="inputs must have a first dimension, the batch"):
        export_onnx(Network(lambda p, x: p * x, jnp.ones(3)), jnp.ones(()))
    data = export_onnx(Network(lambda p, x: p * x, jnp.ones(3)), jnp.ones(()), batched=False)
    assert dimensions(data) == [[], [3]]
    with pytest.raises(TypeError, match="params must hold concrete arrays; w is 1.0"):
        export_onnx(Network(lambda p, x: p["w"] * x, {"w": 1.0}), jnp.ones(3))


def test_a_missing_package_is_named():
    code = (
        "import sys; sys.modules['onnx'] = None\n"
        "import jax.numpy as jnp; from sparsejax.deploy import export_onnx\n"
        "export_onnx(lambda p, x: p * x, jnp.ones(3), jnp.ones((2, 3)))\n"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    wanted = "ImportError: export_onnx needs the package onnx: pip install 'sparsejax[deploy]'"
    assert process.stderr.strip().splitlines()[-1] == wanted


@pytest.mark.parametrize("scan", [False, True])
def test_a_decoder_at_two_lengths(scan):
    """Its layers are a list, or steps of a loop, which are written one after another."""
    whole, _ = decoder(scan)
    for length in (4, 7):
        tokens = RNG.integers(0, 11, (3, length)).astype(np.int32)
        small = shrink(whole, tokens)
        assert_same(export_onnx(small, tokens), whole.function, whole.params, [tokens], (1, 3))


def test_loops_in_loops():
    """Each step of the outer loop has weights of its own for all steps of the inner one."""
    params = normal(2, 3, 3)

    def function(params, x):
        def layer(x, kernel):
            step = lambda h, row: (jnp.tanh(row + h @ kernel),) * 2  # noqa: E731
            return lax.scan(step, jnp.zeros_like(x[0]), x, reverse=True)[1], None

        return lax.scan(layer, x.swapaxes(0, 1), params)[0].swapaxes(0, 1)

    x = normal(5, 4, 3)
    assert_same(export_onnx(Network(function, params), x), function, params, [x])


def test_a_loop_over_the_batch_is_refused():
    function = lambda p, x: lax.map(lambda row: jnp.tanh(row @ p), x)  # noqa: E731
    with pytest.raises(ValueError, match="every batch size; it has a loop over it"):
        export_onnx(Network(function, normal(3, 3)), normal(4, 3))
