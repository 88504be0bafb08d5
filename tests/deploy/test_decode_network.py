import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

import sparsejax
from sparsejax import compression
from sparsejax.compression import LowRankArray, QuantizedArray, SumArray, decode
from sparsejax.deploy import (
    Network,
    compile_sparse,
    decode_network,
    expand,
    export_onnx,
    export_stablehlo,
    load_sparse,
    load_stablehlo,
    save_sparse,
    shrink,
    torch_state,
)
from sparsejax.inspection import macs
from sparsejax.models import LeNet5, LeNet300


def normal(*shape, seed=0, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng([seed, *shape]).normal(size=shape), dtype)


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def flax_network(model, x):
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    return Network(lambda params, x: nnx.merge(graph, params, rest)(x), params)


def in_forms(network, c_step, where=None):
    state = sparsejax.learning_compression(c_step, 0.1, 1, where=where).init(network.params)
    return network.with_params(sparsejax.compressed_forms(c_step, state, network.params))


def instant(functions, inputs):
    """A clock that finds sparse programs fastest."""
    return [1 / (1 + number) for number, _ in enumerate(functions)]


@pytest.mark.long
def test_lenet300_of_low_rank_from_training_to_a_file(tmp_path):
    x = normal(3, 28, 28, 1)
    dense = flax_network(LeNet300(rngs=nnx.Rngs(0)), x)
    assert macs(dense.function, dense.params, x) == 266_200
    network = in_forms(dense, compression.low_rank(7))  # the last layer: 7 * 110 < 1000
    ranks = [leaf.rank for leaf in jax.tree.leaves(network.params, is_leaf=is_low_rank)
             if is_low_rank(leaf)]  # fmt: skip
    assert ranks == [7, 7, 7]
    expected = network(x)
    close(expected, dense.function(decode(network.params), x))
    products = 7 * (784 + 300 + 300 + 100 + 100 + 10)
    small = shrink(network, x)
    for other in (decode_network(network, x), small):
        assert macs(other.function, other.params, x) == products
        close(other(x), expected)
        close(other(x[:1]), expected[:1])
        close(jax.jit(other)(x), expected)
    close(expand(small)(x), expected)
    assert not any(name.split("/")[-1] == "kernel" for name in small.kept)
    close(load_stablehlo(export_stablehlo(network, x))(x), expected)
    assert len(export_onnx(small, x)) < 4 * products + 20_000
    assert len(export_onnx(network, x)) < 4 * products + 20_000
    fast = compile_sparse(small, x, kinds=["transposed"], measure=instant)
    assert len(fast.kinds) == 6
    close(fast(x), expected)
    close(compile_sparse(network, x, kinds=[], measure=instant)(x), expected)
    save_sparse(tmp_path / "net", network.params)
    again = load_sparse(tmp_path / "net", network.params)
    close(network.with_params(again)(x), expected)
    close(decode_network(network.with_params(again), x)(x), expected)


def is_low_rank(node):
    return isinstance(node, LowRankArray)


@pytest.mark.long
@pytest.mark.parametrize("scheme", ["channel", "spatial"])
def test_lenet5_of_low_rank(scheme):
    x = normal(2, 28, 28, 1)
    dense = flax_network(LeNet5((6, 8, 30), rngs=nnx.Rngs(0)), x)
    network = in_forms(dense, compression.low_rank(2, scheme=scheme))
    small = shrink(network, x)
    close(small(x), network(x))
    window = 5 * 5 if scheme == "channel" else 5
    after = 1 if scheme == "channel" else 5
    # Positions of the outputs: 24 x 24 and 8 x 8; a horizontal convolution keeps all rows.
    between = (24 * 24, 8 * 8) if scheme == "channel" else (28 * 24, 12 * 8)
    products = 2 * (
        between[0] * window + 24 * 24 * after * 6 + between[1] * window * 6 + 8 * 8 * after * 8
    )
    products += 2 * (4 * 4 * 8 + 30) + 2 * (30 + 10)
    assert macs(small.function, small.params, x) == products
    fast = compile_sparse(network, x, kinds=["coo"], measure=instant)
    close(fast(x), network(x))
    close(load_stablehlo(export_stablehlo(small, x))(x), network(x))
    export_onnx(small, x)
    state = torch_state(network.params, kinds="conv")  # of layers as they were
    assert state["conv1.weight"].shape == (6, 1, 5, 5)


def test_dead_units_of_factors_are_removed():
    """A row of the second factor that is zero makes a unit between the two products dead."""
    left = normal(20, 3).at[:, 1].set(0.0)
    kernel = LowRankArray(left, normal(3, 15), (20, 15))
    network = Network(lambda p, x: jnp.tanh(x @ p["kernel"]), {"kernel": kernel})
    x = normal(4, 20, seed=1)
    small = shrink(network, x)
    close(small(x), network(x))
    assert macs(small.function, small.params, x) == 2 * 35
    assert jax.tree.map(jnp.shape, small.params) == {"kernel": {"left": (20, 2), "right": (2, 15)}}


def test_other_forms_become_the_arrays_that_they_are():
    codes = jnp.asarray([[0, 1], [1, 1]], "uint8")
    quantised = QuantizedArray(jnp.asarray([-1.0, 0.0, 1.0]), codes)
    low = LowRankArray(normal(2, 1), normal(1, 2), (2, 2))
    params = {
        "q": quantised, "sum": SumArray((quantised, low)), "wide": low, "bias": jnp.ones(2),
        "stacked": LowRankArray(normal(1, 9, 1), normal(1, 1, 9), (1, 9, 9), stacked=1),
        "nothing": LowRankArray(jnp.zeros((9, 0)), jnp.zeros((0, 9)), (9, 9)),
    }  # fmt: skip

    def function(p, x):
        y = x @ p["q"] @ p["sum"] @ p["wide"] + p["bias"]
        return y.sum() + p["stacked"][0] @ jnp.ones(9) @ p["nothing"]

    x = normal(3, 2)
    network = decode_network(Network(function, params), x)
    expected = decode(params)
    assert jax.tree.structure(network.params) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, network.params, expected)
    assert network.function is function
    np.testing.assert_array_equal(network(x), Network(function, params)(x))
    assert decode_network(network, x) is network


def test_gradients_reach_both_factors_and_trees_of_other_structures_are_refused():
    kernel = LowRankArray(normal(9, 1), normal(1, 8), (9, 8))
    x = normal(3, 9)
    network = decode_network(Network(lambda p, x: x @ p["w"], {"w": kernel}), x)
    grads = jax.grad(lambda params: (network.function(params, x) ** 2).sum())(network.params)
    weights = jax.grad(lambda w: ((x @ w) ** 2).sum())(kernel.dense())
    close(grads["w"]["left"], weights @ kernel.right.T)
    close(grads["w"]["right"], kernel.left.T @ weights)
    with pytest.raises(ValueError, match="structure|key"):
        network.function({"w": {"left": kernel.left}, "v": 1}, x)


def test_a_batch_of_networks_and_several_inputs():
    kernel = LowRankArray(normal(9, 1), normal(1, 8), (9, 8))
    function = lambda p, x, y: {"a": x @ p[0] + y["b"], "c": lax.dot(x, p[0]) * 2}  # noqa: E731
    x, y = normal(3, 9), {"b": normal(8)}
    plain = Network(function, [kernel])
    network = decode_network(plain, x, y)
    jax.tree.map(close, network(x, y), plain(x, y))
    found = jax.vmap(network.function, (None, 0, None))(network.params, x[None], y)
    jax.tree.map(lambda a, b: close(a[0], b), found, plain(x, y))


def test_needs_a_network():
    with pytest.raises(TypeError, match="must be a sparsejax.deploy.Network"):
        decode_network(lambda x: x, 1)
    x = normal(3, 2)
    fast = compile_sparse(Network(lambda p, x: x @ p, jnp.eye(2)), x, kinds=[], measure=instant)
    assert decode_network(fast, x) is fast
