"""Recurrences and stacked layers of Flax lose the units that are dead in every step."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from sparsejax.deploy import Network
from tests.deploy.shrinking.test_attention import check, normal, sizes, zeroed

UNITS, WIDTH = 6, 4


def of_nnx(make):
    """A network with random parameters, as a pure function of plain dictionaries."""
    graph, params, rest = nnx.split(make(nnx.Rngs(0)), nnx.Param, ...)
    structure = jax.tree.structure(params)

    def function(params, x):
        state = jax.tree.unflatten(structure, jax.tree.leaves(params))
        return nnx.merge(graph, state, rest, copy=True)(x)

    pure = nnx.to_pure_dict(params)
    return Network(function, jax.tree.map(lambda leaf: normal(*leaf.shape), pure))


class Recurrent(nnx.Module):
    """A recurrence, and a head that reads its last state."""

    def __init__(self, cell, rngs):
        self.rnn = nnx.RNN(cell(WIDTH, UNITS, rngs=rngs))
        self.head = nnx.Linear(UNITS, 2, rngs=rngs)

    def __call__(self, x):
        return self.head(self.rnn(x)[:, -1])


@pytest.mark.parametrize(("cell", "gates"), [(nnx.GRUCell, 3), (nnx.OptimizedLSTMCell, 4)])
@pytest.mark.parametrize("gone", ["unread", "zero"])
def test_recurrences(cell, gates, gone):
    network = of_nnx(lambda rngs: Recurrent(cell, rngs))
    params, x = network.params, normal(3, 5, WIDTH)
    if gone == "unread":
        params["head"]["kernel"] = zeroed(params["head"]["kernel"], [1, 4])
        kernel = params["rnn"]["cell"]["dense_h"]
        kernel["kernel"] = zeroed(kernel["kernel"], [1, 4])
    else:
        columns = [UNITS * gate + unit for gate in range(gates) for unit in (1, 4)]
        params["rnn"]["cell"] = jax.tree.map(
            lambda leaf: zeroed(leaf, ..., columns), params["rnn"]["cell"]
        )
    found = sizes(check(network, x).params)
    assert found["head/kernel"] == (4, 2)
    assert found["rnn/cell/dense_h/kernel"] == (4, 4 * gates)
    assert found["rnn/cell/dense_i/kernel"] == (4, 4 * gates)


class Block(nnx.Module):
    """Hidden units beside a residual stream."""

    def __init__(self, rngs):
        self.norm = nnx.RMSNorm(WIDTH, rngs=rngs)
        self.up, self.down = nnx.Linear(WIDTH, 5, rngs=rngs), nnx.Linear(5, WIDTH, rngs=rngs)

    def __call__(self, x):
        return x + self.down(jax.nn.gelu(self.up(self.norm(x))))


class Stacked(nnx.Module):
    """Three blocks with stacked parameters."""

    def __init__(self, rngs):
        make = nnx.vmap(Block, in_axes=(nnx.StateAxes({...: 0}),), out_axes=0)
        self.layers = nnx.split_rngs(splits=3)(make)(rngs)

    def __call__(self, x):
        run = nnx.scan(lambda x, layer: layer(x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        return run(x, self.layers)


class LinenBlock(nn.Module):
    """The same for Linen, which passes the stream on as a carry."""

    @nn.compact
    def __call__(self, x, _):
        hidden = jax.nn.gelu(nn.Dense(5, name="up")(nn.RMSNorm(name="norm")(x)))
        return x + nn.Dense(WIDTH, name="down")(hidden), None


def of_linen():
    stack = nn.scan(LinenBlock, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
    model, x = stack(), jnp.ones((2, WIDTH))
    params = model.init(jax.random.key(0), x, None)["params"]
    return Network(
        lambda params, x: model.apply({"params": params["layers"]}, x, None)[0],
        {"layers": jax.tree.map(lambda leaf: normal(*leaf.shape), params)},
    )


@pytest.mark.parametrize("make", [lambda: of_nnx(Stacked), of_linen])
def test_stacked_layers(make):
    network = make()
    down = network.params["layers"]["down"]
    down["kernel"] = zeroed(down["kernel"], slice(None), [0, 3])
    found = sizes(check(network, normal(3, WIDTH)).params)
    assert found["layers/up/kernel"] == (3, WIDTH, 3)
    assert found["layers/down/kernel"] == (3, 3, WIDTH)
    assert found["layers/norm/scale"] == (3, WIDTH)
