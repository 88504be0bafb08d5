import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sparsejax.deploy import Network, compile_sparse
from sparsejax.deploy.sparse_programs._layers import DENSE, KINDS
from sparsejax.inspection import macs
from sparsejax.models import LeNet300
from tests.deploy.shrinking.test_shrink import forward, normal, pruned, zeroed


def sparse_first(functions, inputs):
    """As if the last one took the least time."""
    return range(len(functions), 0, -1)


@pytest.fixture(scope="module")
def lenet300():
    rng = np.random.default_rng(0)
    function, params = forward(lambda: LeNet300(units=(20, 10), rngs=nnx.Rngs(0)), rng)
    params = pruned(params, rng, 0.3)
    fast = compile_sparse(
        Network(function, params), jax.ShapeDtypeStruct((8, 784), jnp.float32), rounds=2
    )
    return function, params, fast


@pytest.mark.long
@pytest.mark.parametrize("batch", [1, 8, 13])
def test_the_choice_computes_the_same(lenet300, batch):
    function, params, fast = lenet300
    x = normal(np.random.default_rng(1), batch, 784)
    expected = jax.jit(function)(params, x)
    np.testing.assert_allclose(fast(x), expected, atol=1e-5)
    one_by_one = jax.vmap(lambda image: fast(image[None])[0])(x)
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
    np.testing.assert_allclose(jax.grad(lambda x: fast(x).sum())(x), expected, atol=1e-5)


def test_the_choice_takes_sharded_batches(lenet300):
    function, params, fast = lenet300
    mesh = Mesh(np.array(jax.devices()), ("batch",))
    x = normal(np.random.default_rng(1), 16, 784)
    there = jax.device_put(x, NamedSharding(mesh, PartitionSpec("batch")))
    np.testing.assert_allclose(fast(there), function(params, x), atol=1e-5)


def multiplications(functions, inputs):
    """In place of seconds: what is multiplied in products, and a little for a call."""
    return [1 + macs(lambda _, *x, f=f: f(*x), (), *inputs, batched=False) for f in functions]


def test_the_fastest_is_taken():
    rng = np.random.default_rng(0)
    params = (normal(rng, 30, 20) * (rng.random((30, 20)) < 0.1)).astype(np.float32)
    params[:, 4] = 0
    example = jax.ShapeDtypeStruct((1, 30), jnp.float32)
    fast = compile_sparse(
        Network(lambda params, x: jax.nn.relu(x @ params) @ np.ones((20, 2), np.float32), params),
        example, kinds=["transposed", "coo"], measure=multiplications,
    )  # fmt: skip
    assert list(fast.kinds.values()) == ["coo", "coo"]
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

    fast = compile_sparse(Network(function, params), x, kinds=["transposed"], measure=measure)
    assert fast.chosen == chosen
    assert fast.seconds == dict(zip(("given", "shrunk", "sparse"), times, strict=True))
    units = {"given": 4}.get(chosen, 3)
    assert f"tensor<5x{units}xf32>" in jax.jit(fast).lower(x).as_text() or chosen == "sparse"
    assert set(fast.kinds.values()) == ({"transposed"} if chosen == "sparse" else {DENSE})
    for batch in (1, 4):
        x = normal(rng, batch, 5)
        np.testing.assert_allclose(fast(x), function(params, x), atol=1e-5)


def test_only_what_is_asked_for_is_tried():
    rng = np.random.default_rng(0)
    params = (normal(rng, 300, 300) * (rng.random((300, 300)) < 0.01)).astype(np.float32)
    x = normal(rng, 1, 300)
    fast = compile_sparse(Network(lambda params, x: x @ params, params), x, kinds=(), rounds=1)
    assert fast.kinds == {"": DENSE}


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
    fast = compile_sparse(Network(function, params), x, kinds=(), measure=sparse_first)
    assert list(fast.kinds) == ["last"]
    assert "convolution" not in jax.jit(fast).lower(x).as_text()
    for batch in (2, 5):
        x = normal(rng, batch, 8, 8, 4)
        np.testing.assert_allclose(fast(x), function(params, x), atol=1e-5)


# Bad input


def test_errors():
    params, x = np.eye(3, dtype=np.float32), np.ones((2, 3), np.float32)
    function = lambda params, x: x @ params  # noqa: E731
    with pytest.raises(ValueError, match=r"kinds must be among \('dense', .*; got 'fast'"):
        compile_sparse(Network(function, params), x, kinds=["fast"])
    with pytest.raises(ValueError, match="rounds must be at least 1; got 0"):
        compile_sparse(Network(function, params), x, rounds=0)
    with pytest.raises(TypeError, match="params must hold concrete arrays"):
        jax.jit(lambda params: compile_sparse(Network(function, params), x))(params)
    fast = compile_sparse(Network(function, params), x, kinds=(), measure=sparse_first)
    with pytest.raises(ValueError, match=r"params must be \(\), since a compiled network"):
        fast.function(params, x)
    with pytest.raises(ValueError, match="inputs must have the shapes"):
        fast(np.ones((2, 4), np.float32))
