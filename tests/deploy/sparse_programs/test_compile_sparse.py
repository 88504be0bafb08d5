import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sparsejax.deploy import compile_sparse
from sparsejax.deploy.sparse_programs._compile_sparse import KINDS
from sparsejax.deploy.sparse_programs._program import DENSE, Program
from sparsejax.inspection import macs
from sparsejax.models import LeNet5, LeNet300
from tests.deploy.shrinking.test_shrink import forward, normal, pruned, zeroed

PRODUCTS = [kind for kind in KINDS if not kind.startswith("taps")]
CONVOLUTIONS = [DENSE, "taps", "taps apart"]


def run(kind, function, params, *inputs, jit=jax.jit):
    """The function with all layers that know this kind computed so, and how many these are."""
    program = Program(function, params, inputs)
    kinds = {layer.equation: kind for layer in program.layers if kind in layer.kinds}
    return jit(lambda *arrays: program.run(kinds, *arrays))(*inputs), len(kinds)


def dense_network(params, x):
    hidden = jnp.maximum(x @ params["first"] + params["bias"], 0)
    hidden = jnp.tanh(jnp.einsum("hij,bi->bhj", params["heads"], hidden))  # weights on the left
    return jnp.einsum("bhj,hjo->bo", hidden, params["last"]) - params["bias"][:4]


def dense_params(rng, density=0.2):
    first = normal(rng, 12, 16) * (rng.random((12, 16)) < density)
    first[:, 3] = first[5] = 0  # a unit that reads nothing, an input that nothing reads
    heads = normal(rng, 3, 16, 5) * (rng.random((3, 16, 5)) < density)
    return {
        "first": first.astype(np.float32),
        "bias": normal(rng, 16),
        "heads": heads.astype(np.float32),
        "last": normal(rng, 3, 5, 4),
    }


@pytest.mark.parametrize("kind", PRODUCTS)
@pytest.mark.parametrize("batch", [1, 7])
def test_every_product_is_the_dense_one(kind, batch):
    rng = np.random.default_rng(0)
    params, x = dense_params(rng), normal(rng, batch, 12)
    found, layers = run(kind, dense_network, params, x)
    # "live" is for weights with dead rows or columns; einsum sums over two dimensions in "last".
    assert layers == (1 if kind == "live" else 2)
    np.testing.assert_allclose(found, dense_network(params, x), atol=1e-5)


def test_biases_are_taken_into_the_product_only_where_they_belong():
    rng = np.random.default_rng(1)
    params, x = dense_params(rng), normal(rng, 3, 12)

    def function(params, x):
        product = x @ params["first"]
        of_position = normal(np.random.default_rng(2), 3, 16)  # differs by example
        return product + of_position, product * 2 + params["bias"]

    found, _ = run("padded", function, params, x)
    for a, b in zip(found, function(params, x), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


CASES = {
    "plain": {},
    "padded": {"padding": "SAME"},
    "strided": {"window_strides": (2, 1), "padding": ((1, 0), (0, 2))},
    "dilated": {"rhs_dilation": (2, 1)},
    "channels first": {"dimension_numbers": ("NHWC", "HWIO", "NCHW")},
    "turned": {"dimension_numbers": ("NHWC", "HWIO", "NWHC")},
    "upsampling": {"lhs_dilation": (2, 2), "padding": ((0, 0), (0, 0))},
}


@pytest.mark.parametrize("kind", CONVOLUTIONS)
@pytest.mark.parametrize("case", CASES)
def test_every_convolution_is_the_dense_one(kind, case):
    rng = np.random.default_rng(0)
    kernel = normal(rng, 3, 2, 4, 5) * (rng.random((3, 2, 4, 5)) < 0.3)
    kernel[..., 2] = 0
    settings = {
        "window_strides": (1, 1), "padding": "VALID", "dimension_numbers": ("NHWC", "HWIO", "NHWC"),
    } | CASES[case]  # fmt: skip
    channels = 1 if case == "channels first" else 3
    shape = [1, 1, 1, 1]
    shape[channels] = 5

    def function(params, x):
        y = lax.conv_general_dilated(x, params["kernel"], **settings)
        y = y * params["scale"].reshape(shape) + params["bias"].reshape(shape)
        return jnp.maximum(y, 0.1) + y

    params = {
        "kernel": kernel.astype(np.float32), "scale": normal(rng, 5), "bias": normal(rng, 5),
    }  # fmt: skip
    x = normal(rng, 6, 9, 8, 4)
    found, layers = run(kind, function, params, x)
    assert layers == (0 if case == "upsampling" and kind != DENSE else 1)
    np.testing.assert_allclose(found, function(params, x), atol=1e-5)


POOLS = {
    "maxima": lambda y: lax.reduce_window(
        y, -jnp.inf, lax.max, (1, 2, 3, 1), (1, 2, 3, 1), "VALID"
    ),
    "sums": lambda y: lax.reduce_window(y, 0.0, lax.add, (1, 2, 1, 1), (1, 3, 2, 1), "VALID"),
    "overlapping": lambda y: lax.reduce_window(
        y, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "SAME"
    ),
    "over channels": lambda y: lax.reduce_window(
        y, 0.0, lax.add, (1, 1, 1, 5), (1, 1, 1, 5), "VALID"
    ),
    "global": lambda y: y.mean(axis=(1, 2)),
    "reversed": lambda y: y[:, ::-1],
    "summed with the input": lambda y: y + y.mean(axis=3, keepdims=True),
}


@pytest.mark.parametrize("kind", CONVOLUTIONS)
@pytest.mark.parametrize("pool", POOLS)
def test_what_follows_a_convolution(kind, pool):
    rng = np.random.default_rng(0)
    kernel = (normal(rng, 3, 3, 2, 5) * (rng.random((3, 3, 2, 5)) < 0.3)).astype(np.float32)
    numbers = ("NHWC", "HWIO", "NHWC")
    place = normal(rng, 1, 8, 7, 5)  # differs by position

    def function(params, x):
        y = lax.conv_general_dilated(x, params, (1, 1), "VALID", dimension_numbers=numbers)
        return POOLS[pool](jnp.tanh(y + place))

    x = normal(rng, 4, 10, 9, 2)
    found, _ = run(kind, function, kernel, x)
    np.testing.assert_allclose(found, function(kernel, x), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_networks_of_the_papers(kind):
    rng = np.random.default_rng(0)
    for make, shape in (
        (lambda: LeNet300(units=(20, 10), rngs=nnx.Rngs(0)), (784,)),
        (lambda: LeNet5((4, 6, 20), rngs=nnx.Rngs(0)), (28, 28, 1)),
    ):
        function, params = forward(make, rng)
        params, x = pruned(params, rng, 0.2), normal(rng, 3, *shape)
        found, _ = run(kind, function, params, x)
        np.testing.assert_allclose(found, jax.jit(function)(params, x), atol=1e-5)


def test_bfloat16_is_summed_in_float32():
    rng = np.random.default_rng(0)
    params = {"w": jnp.asarray(normal(rng, 600, 3) * (rng.random((600, 3)) < 0.4), jnp.bfloat16)}
    x = jnp.asarray(np.abs(normal(rng, 2, 600)) + 1, jnp.bfloat16)
    exact = np.asarray(x, np.float64) @ np.asarray(params["w"], np.float64)
    for kind in ("padded", "padded groups"):
        found, _ = run(kind, lambda params, x: x @ params["w"], params, x)
        assert found.dtype == jnp.bfloat16
        np.testing.assert_allclose(np.asarray(found, np.float64), exact, rtol=2**-8)


def test_layers_are_named_by_their_weights():
    rng = np.random.default_rng(0)
    known = normal(rng, 4, 4)

    def function(params, x):
        hidden = x @ (params["inner"]["w"] * params["mask"]).T
        return (hidden @ known) @ params["inner"]["w"]

    params = {"inner": {"w": normal(rng, 4, 4)}, "mask": np.ones(4, np.float32)}
    layers = Program(function, params, (normal(rng, 2, 4),)).layers
    assert [layer.name for layer in layers] == ["inner/w", "constant 0", "inner/w (2)"]
    assert [layer.macs for layer in layers] == [2 * 16] * 3


# The search


def sparse_first(functions, inputs):
    """As if the last one took the least time."""
    return range(len(functions), 0, -1)


@pytest.fixture(scope="module")
def lenet300():
    rng = np.random.default_rng(0)
    function, params = forward(lambda: LeNet300(units=(20, 10), rngs=nnx.Rngs(0)), rng)
    params = pruned(params, rng, 0.3)
    fast = compile_sparse(function, params, jax.ShapeDtypeStruct((8, 784), jnp.float32), rounds=2)
    return function, params, fast


@pytest.mark.parametrize("batch", [1, 8, 13])
def test_the_choice_computes_the_same(lenet300, batch):
    function, params, fast = lenet300
    x = normal(np.random.default_rng(1), batch, 784)
    expected = jax.jit(function)(params, x)
    np.testing.assert_allclose(fast.function(x), expected, atol=1e-5)
    one_by_one = jax.vmap(lambda image: fast.function(image[None])[0])(x)
    np.testing.assert_allclose(one_by_one, expected, atol=1e-5)


def test_the_choice_is_told(lenet300):
    _, _, fast = lenet300
    assert list(fast.kinds) == ["dense1/kernel", "dense2/kernel", "dense3/kernel"]
    assert set(fast.kinds.values()) <= set(KINDS)
    assert list(fast.seconds) == ["given", "shrunk", "sparse"]
    assert all(seconds > 0 for seconds in fast.seconds.values())
    assert fast.chosen == min(fast.seconds, key=fast.seconds.get)


def test_the_choice_is_differentiable(lenet300):
    function, params, fast = lenet300
    x = normal(np.random.default_rng(1), 3, 784)
    expected = jax.grad(lambda x: function(params, x).sum())(x)
    np.testing.assert_allclose(jax.grad(lambda x: fast.function(x).sum())(x), expected, atol=1e-5)


def test_the_choice_takes_sharded_batches(lenet300):
    function, params, fast = lenet300
    mesh = Mesh(np.array(jax.devices()), ("batch",))
    x = normal(np.random.default_rng(1), 16, 784)
    there = jax.device_put(x, NamedSharding(mesh, PartitionSpec("batch")))
    np.testing.assert_allclose(fast.function(there), function(params, x), atol=1e-5)


def multiplications(functions, inputs):
    """In place of seconds: what is multiplied in products, and a little for a call."""
    return [1 + macs(lambda _, *x, f=f: f(*x), (), *inputs, batched=False) for f in functions]


def test_the_fastest_is_taken():
    rng = np.random.default_rng(0)
    params = (normal(rng, 30, 20) * (rng.random((30, 20)) < 0.1)).astype(np.float32)
    params[:, 4] = 0
    example = jax.ShapeDtypeStruct((1, 30), jnp.float32)
    fast = compile_sparse(
        lambda params, x: jax.nn.relu(x @ params) @ np.ones((20, 2), np.float32), params, example,
        kinds=["units first", "segment sum"], measure=multiplications,
    )  # fmt: skip
    assert list(fast.kinds.values()) == ["segment sum", "segment sum"]
    assert fast.chosen == "sparse"
    assert fast.seconds["sparse"] == 1 < fast.seconds["shrunk"] < fast.seconds["given"]


@pytest.mark.parametrize(
    ("times", "chosen"),
    [
        ((1, 2, 3), "given"), ((2, 1, 3), "shrunk"), ((3, 2, 1), "sparse"), ((1, 1, 1), "given"),
        ((2, 1, 1), "shrunk"),
    ],
)  # fmt: skip
def test_what_is_returned_is_the_fastest_of_given_shrunk_and_sparse(times, chosen):
    """Even where the best sparse network that was found is not faster than either."""
    rng = np.random.default_rng(0)
    params = {"w": zeroed(normal(rng, 5, 4), slice(None), 1), "o": normal(rng, 4, 2)}
    x = normal(rng, 3, 5)

    def measure(functions, inputs):
        assert inputs[0].shape == (3, 5)
        return times if len(functions) == 3 else (1.0, 0.5)  # the last trial is the best

    def function(params, x):
        return jax.nn.relu(x @ params["w"]) @ params["o"]

    fast = compile_sparse(function, params, x, kinds=["units first"], measure=measure)
    assert fast.chosen == chosen
    assert fast.seconds == dict(zip(("given", "shrunk", "sparse"), times, strict=True))
    units = {"given": 4}.get(chosen, 3)
    assert f"tensor<5x{units}xf32>" in fast.function.lower(x).as_text() or chosen == "sparse"
    assert set(fast.kinds.values()) == ({"units first"} if chosen == "sparse" else {DENSE})
    for batch in (1, 4):
        x = normal(rng, batch, 5)
        np.testing.assert_allclose(fast.function(x), function(params, x), atol=1e-5)


def test_only_what_is_asked_for_is_tried():
    rng = np.random.default_rng(0)
    params = (normal(rng, 300, 300) * (rng.random((300, 300)) < 0.01)).astype(np.float32)
    x = normal(rng, 1, 300)
    fast = compile_sparse(lambda params, x: x @ params, params, x, kinds=(), rounds=1)
    assert fast.kinds == {"": DENSE}


def test_batch_normalisation_and_sums_of_branches():
    rng = np.random.default_rng(0)
    numbers = ("NHWC", "HWIO", "NHWC")

    def layer(params, x):
        y = lax.conv_general_dilated(x, params["kernel"], (1, 1), "SAME", dimension_numbers=numbers)
        return (y - params["mean"]) * (lax.rsqrt(params["var"] + 1e-5) * params["scale"])

    def function(params, x):
        hidden = layer(params["second"], jax.nn.relu(layer(params["first"], x)))
        hidden = jax.nn.relu(x + hidden)
        hidden = layer(params["third"], hidden) + hidden
        return hidden.mean(axis=(1, 2)) @ params["last"]

    def draw():
        kernel = normal(rng, 3, 3, 4, 4) * (rng.random((3, 3, 4, 4)) < 0.1)
        norm = {"mean": normal(rng, 4), "scale": normal(rng, 4), "var": rng.random(4)}
        return {"kernel": kernel} | norm

    params = {"first": draw(), "second": draw(), "third": draw(), "last": normal(rng, 4, 3)}
    params = jax.tree.map(np.float32, params)
    x = normal(rng, 2, 8, 8, 4)
    for kind in ("taps", "taps apart"):
        found, layers = run(kind, function, params, x)
        assert layers == 3
        np.testing.assert_allclose(found, function(params, x), atol=1e-5)


def test_what_is_constant_is_not_computed():
    rng = np.random.default_rng(0)
    numbers = ("NHWC", "HWIO", "NHWC")

    def function(params, x):
        hidden = lax.conv_general_dilated(
            x, params["first"], (1, 1), "SAME", dimension_numbers=numbers
        )
        hidden = lax.conv_general_dilated(
            jax.nn.relu(hidden), params["second"], (1, 1), "SAME", dimension_numbers=numbers
        )
        return (x + hidden + params["bias"]).mean(axis=(1, 2)) @ params["last"]

    params = {
        "first": np.zeros((3, 3, 4, 6), np.float32), "second": normal(rng, 3, 3, 6, 4),
        "bias": normal(rng, 4), "last": normal(rng, 4, 3),
    }  # fmt: skip
    x = normal(rng, 2, 8, 8, 4)
    fast = compile_sparse(function, params, x, kinds=(), measure=sparse_first)
    assert list(fast.kinds) == ["last"]
    assert "convolution" not in fast.function.lower(x).as_text()
    for batch in (2, 5):
        x = normal(rng, batch, 8, 8, 4)
        np.testing.assert_allclose(fast.function(x), function(params, x), atol=1e-5)


# Bad input


def test_errors():
    params, x = np.eye(3, dtype=np.float32), np.ones((2, 3), np.float32)
    function = lambda params, x: x @ params  # noqa: E731
    with pytest.raises(ValueError, match=r"kinds must be among \('dense', .*; got 'fast'"):
        compile_sparse(function, params, x, kinds=["fast"])
    with pytest.raises(ValueError, match="rounds must be at least 1; got 0"):
        compile_sparse(function, params, x, rounds=0)
    with pytest.raises(TypeError, match="params must hold concrete arrays"):
        jax.jit(lambda params: compile_sparse(function, params, x))(params)
    fast = compile_sparse(function, params, x, kinds=(), measure=sparse_first)
    with pytest.raises(ValueError, match="inputs must have the shapes"):
        fast.function(np.ones((2, 4), np.float32))
