"""Loops over stacked layers that are written out compute the same, and each layer shrinks alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from sparsejax._names import leaves_by_name
from sparsejax.deploy import Network, expand, shrink, unroll_layers
from tests.deploy.shrinking.test_attention import normal, zeroed
from tests.deploy.shrinking.test_scan import WIDTH, Recurrent, Stacked, of_linen, of_nnx


def sizes(params):
    return {name: leaf.shape for name, leaf in leaves_by_name(params).items()}


def close(found, expected):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, expected
    )


@pytest.mark.parametrize("make", [lambda: of_nnx(Stacked), of_linen])
def test_each_layer_loses_its_own_units(make):
    network, x = make(), normal(3, WIDTH)
    down = network.params["layers"]["down"]
    for layer, units in enumerate(([0, 3], [], [1, 2, 4])):
        down["kernel"] = zeroed(down["kernel"], layer, units)
    separate = unroll_layers(network, x)
    assert separate.params["layers"]["down"]["kernel"][2].shape == (5, WIDTH)
    small = shrink(separate, x)
    found = sizes(small.params)
    assert [found[f"layers/up/kernel/{layer}"] for layer in range(3)] == [
        (WIDTH, 3), (WIDTH, 5), (WIDTH, 2),
    ]  # fmt: skip
    assert found["layers/down/bias/1"] == (WIDTH,)
    for inputs in (x, x[:1]):
        close(jax.jit(small)(inputs), network(inputs))
        close(separate(inputs), network(inputs))
    close(expand(small)(x), network(x))

    def stacked(whole, layers):
        return jnp.stack(layers) if isinstance(layers, list) else layers

    restacked = jax.tree.map(stacked, network.params, expand(small).params)
    close(network.with_params(restacked)(x), network(x))


def loop(params, x):
    """A loop with a constant, a carry of two, slices of parameters and inputs, and results."""

    def step(carry, slices):
        total, count = carry
        kernel, row, scale, tied = slices
        new = jnp.tanh(total @ (kernel + tied) + row * scale + params["shared"])
        return (new, count + 1), (new.sum(), row[:2])

    scales = params["scales"].astype(jnp.float32)
    slices = params["kernels"], x["rows"], scales, params["tied"]
    return lax.scan(step, (x["first"], 0), slices, reverse=True), params["tied"].sum()


def test_a_loop_with_every_kind_of_operand():
    params = {
        "kernels": normal(3, 4, 4), "tied": normal(3, 4, 4), "shared": normal(4),
        "scales": jnp.array([1, 2, 3], jnp.bfloat16),
    }  # fmt: skip
    x = {"rows": normal(3, 4), "first": normal(2, 4)}
    network = Network(loop, params)
    separate = unroll_layers(network, x)
    assert len(separate.params["kernels"]) == len(separate.params["scales"]) == 3
    assert separate.params["tied"].shape == (3, 4, 4)  # it is read as a whole, too
    close(separate(x), network(x))
    found, expected = (
        jax.grad(lambda p, one=one: one.function(p, x)[0][0][0].sum())(one.params)
        for one in (separate, network)
    )
    close(jnp.stack(found["kernels"]), expected["kernels"])
    close(jnp.stack(found["scales"]), expected["scales"])


def test_loops_within_loops_are_written_out_one_after_another():
    def function(params, x):
        inner = lambda x, kernels: lax.scan(lambda x, k: (jnp.tanh(x @ k), None), x, kernels)  # noqa: E731
        return lax.scan(lambda x, kernels: (inner(x, kernels)[0], None), x, params)[0]

    network, x = Network(function, normal(2, 3, 4, 4)), normal(2, 4)
    once = unroll_layers(network, x)
    assert sizes(once.params) == {"0": (3, 4, 4), "1": (3, 4, 4)}
    twice = unroll_layers(once, x)
    assert set(sizes(twice.params).values()) == {(4, 4)}
    close(twice(x), network(x))
    assert unroll_layers(twice, x) is twice


def test_loops_over_time_stay():
    network = of_nnx(lambda rngs: Recurrent(nnx.GRUCell, rngs))
    assert unroll_layers(network, normal(3, 5, WIDTH)) is network


def test_a_state_of_nnx():
    graph, params = nnx.split(Stacked(nnx.Rngs(0)))
    network, x = Network(lambda p, x: nnx.merge(graph, p)(x), params), normal(2, WIDTH)
    close(unroll_layers(network, x)(x), network(x))


def test_other_arguments_are_an_error():
    with pytest.raises(TypeError, match=r"network must be a sparsejax.deploy.Network"):
        unroll_layers({"kernel": normal(2, 2)}, normal(2))
    shapes = jax.eval_shape(lambda: jnp.ones((3, 4, 4)))
    network = Network(lambda p, x: lax.scan(lambda x, k: (x @ k, None), x, p)[0], shapes)
    with pytest.raises(TypeError, match="params must hold concrete arrays; params is Shape"):
        unroll_layers(network, normal(2, 4))
