"""Attention and its surroundings lose heads, hidden units and channels, and compute the same."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sparsejax.deploy import Network, expand, shrink
from sparsejax.inspection import macs
from sparsejax.models import Decoder, DecoderConfig

BATCH, LENGTH, WIDTH = 3, 5, 8
RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32) * np.float32(0.5)


def zeroed(array, *index):
    array = np.array(array)
    array[index] = 0
    return array


def sizes(tree):
    return {
        "/".join(str(getattr(key, "key", key)) for key in path): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def check(network, x, *, others=()):
    """The shrunk network computes the same, for other batch sizes, too."""
    small = shrink(network, x)
    for inputs in (x, x[:1], *others):
        found, expected = jax.jit(small)(inputs), network(inputs)
        scale = np.abs(expected).max()
        np.testing.assert_allclose(found, expected, atol=1e-5 * scale, rtol=1e-5)
    return small


# Decoders


def decoder(scan):
    """A decoder without some of its channels, hidden units, queries and a group of them."""
    config = DecoderConfig(11, 24, 2, 6, 3, 5)
    graph, params, rest = nnx.split(
        Decoder(config, scan_layers=scan, rngs=nnx.Rngs(0)), nnx.Param, ...
    )
    structure = jax.tree.structure(params)

    def function(params, *inputs):
        state = jax.tree.unflatten(structure, jax.tree.leaves(params))
        return nnx.merge(graph, state, rest)(*inputs)

    def prune(path, leaf):
        name = jax.tree_util.keystr(path)
        leaf = leaf + normal(*leaf.shape) if "scale" in name else leaf
        if "down" in name:
            leaf = zeroed(leaf, ..., [1, 3], slice(None))
        if "output" in name:  # the queries of the second group, and the others' third unit of all
            leaf = zeroed(leaf, ..., slice(8, 16), slice(None))
        if "embedding" in name or "down" in name or "output" in name:
            leaf = zeroed(leaf, ..., [2, 7])
        return np.asarray(leaf)

    pure = jax.tree_util.tree_map_with_path(prune, nnx.to_pure_dict(params))
    return Network(function, pure), RNG.integers(0, 11, (BATCH, LENGTH))


@pytest.mark.parametrize("scan", [False, True])
def test_a_decoder(scan):
    network, tokens = decoder(scan)
    small = check(network, tokens)
    stack = (2,) if scan else ()
    layer = small.params["layers"] if scan else small.params["layers"][0]
    assert sizes(layer) == {
        "attention/key/kernel": (*stack, 22, 8),
        "attention/output/kernel": (*stack, 16, 22),
        "attention/query/kernel": (*stack, 22, 16),
        "attention/value/kernel": (*stack, 22, 8),
        "attention_norm/scale": (*stack, 22),
        "mlp/down/kernel": (*stack, 3, 22),
        "mlp/gate/kernel": (*stack, 22, 3),
        "mlp/up/kernel": (*stack, 22, 3),
        "mlp_norm/scale": (*stack, 22),
    }
    assert small.params["embedding"]["embedding"].shape == (11, 22)
    whole = expand(small)
    np.testing.assert_allclose(whole(tokens), network(tokens), rtol=1e-5, atol=1e-6)


def test_a_decoder_with_the_logits_of_a_computed_position():
    network, tokens = decoder(scan=False)
    small = shrink(network, tokens, np.int32(0))
    assert small.params["embedding"]["embedding"].shape == (11, 22)
    for position in (1, LENGTH - 1):
        expected = network(tokens, position)
        assert expected.shape == (BATCH, 11)
        np.testing.assert_allclose(small(tokens, position), expected, rtol=1e-5, atol=1e-6)


# Attention in several spellings


def grouped(params, x, repeat):
    """Two heads of keys and values, of three units each, serve four of queries."""
    query = (x @ params["query"]).reshape(*x.shape[:2], 4, 3)
    key, value = ((x @ params[name]).reshape(*x.shape[:2], 2, 3) for name in ("key", "value"))
    mixed = repeat(query, key, value).reshape(*x.shape[:2], 12)
    return mixed @ params["output"]


def softmax(query, key, value):
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key)
    scores = jnp.where(jnp.tril(jnp.ones((LENGTH, LENGTH), bool)), scores, -1e30)
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), value)


def spread(array):
    whole = jnp.broadcast_to(array[:, :, :, None], (*array.shape[:3], 2, array.shape[3]))
    return whole.reshape(*array.shape[:2], -1, array.shape[3])


SPELLINGS = {
    "repeat": lambda q, k, v: softmax(q, jnp.repeat(k, 2, axis=2), jnp.repeat(v, 2, axis=2)),
    "broadcast": lambda q, k, v: softmax(q, spread(k), spread(v)),
    "indices": lambda q, k, v: softmax(q, k[:, :, np.arange(4) // 2], v[:, :, np.arange(4) // 2]),
    "jax": lambda q, k, v: jax.nn.dot_product_attention(q, k, v, is_causal=True),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_grouped_queries(spelling):
    params = {
        name: normal(WIDTH, 12 if name == "query" else 6) for name in ("query", "key", "value")
    }
    params["output"] = zeroed(normal(12, 2), slice(6, 12))
    function = lambda params, x: grouped(params, x, SPELLINGS[spelling])  # noqa: E731
    x = normal(BATCH, LENGTH, WIDTH)
    assert sizes(check(Network(function, params), x).params) == {
        "query": (8, 6), "key": (8, 3), "value": (8, 3), "output": (6, 2),
    }  # fmt: skip
    params["output"], params["value"] = normal(12, 2), zeroed(params["value"], ..., slice(3, 6))
    small = check(Network(function, params), x)
    assert sizes(small.params)["key"] == (8, 3)
    if spelling != "jax":  # a query head of a group that stays leaves where heads are repeated
        params["output"], params["value"] = zeroed(normal(12, 2), slice(3, 6)), normal(8, 6)
        assert sizes(check(Network(function, params), x).params)["query"] == (8, 9)


def vision(params, x):
    """A layer behind a class token; products and broadcasts of one example are traced otherwise."""
    x = jnp.concatenate([jnp.broadcast_to(params["class"], (len(x), 1, WIDTH)), x], 1)
    query, key, value = (
        (x @ params["qkv"] + params["bias"]).reshape(len(x), -1, 3, 4, 2).transpose(2, 0, 3, 1, 4)
    )
    mixed = jax.nn.softmax(query @ key.swapaxes(2, 3)) @ value
    return mixed.swapaxes(1, 2).reshape(x.shape) @ params["output"]


@pytest.mark.parametrize("batch", [1, 2])
def test_a_batch_of_one_may_be_traced_otherwise(batch):
    params = {"class": normal(1, 1, WIDTH), "qkv": normal(WIDTH, 24), "bias": normal(24)}
    params["output"] = zeroed(normal(WIDTH, WIDTH), slice(2, 6))
    network, x = Network(vision, params), normal(BATCH, LENGTH, WIDTH)
    small = check(network, x[:batch], others=[x])
    assert small.params["qkv"].shape == (WIDTH, 12)
    assert macs(small.function, small.params, x) * 2 < macs(vision, params, x) * 1.01


def test_a_batch_of_one_may_keep_more():
    """Unit 3 is read for one example alone; for others, unit 1."""
    params = {"in": normal(4, 5), "out": zeroed(normal(5, 2), [1, 3, 4]), "scale": normal(2)}

    def function(params, x):
        h = jnp.tanh(x @ params["in"])
        unit = h[:, 3:4] if len(x) == 1 else h[:, 1:2]
        return h @ params["out"] + unit * params["scale"]

    for batch in (1, 3):
        small = check(Network(function, params), normal(3, 4)[:batch], others=[normal(3, 4)])
        assert sizes(small.params) == {"in": (4, 4), "out": (4, 2), "scale": (2,)}


# Encoders of Flax


class Encoder(nnx.Module):
    """A layer of BERT between embeddings of tokens and positions, and a classifier."""

    def __init__(self, rngs):
        self.tokens = nnx.Embed(7, WIDTH, rngs=rngs)
        self.positions = nnx.Embed(9, WIDTH, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(4, WIDTH, decode=False, rngs=rngs)
        self.norms = nnx.List([nnx.LayerNorm(WIDTH, rngs=rngs) for _ in range(2)])
        self.up, self.down = nnx.Linear(WIDTH, 6, rngs=rngs), nnx.Linear(6, WIDTH, rngs=rngs)
        self.head = nnx.Linear(WIDTH, 2, rngs=rngs)

    def __call__(self, tokens):
        x = self.tokens(tokens) + self.positions(jnp.arange(tokens.shape[1]))
        x = self.norms[0](x + self.attention(x))
        x = self.norms[1](x + self.down(jax.nn.gelu(self.up(x))))
        return self.head(x[:, 0])


def test_an_encoder_of_nnx():
    graph, params, rest = nnx.split(Encoder(nnx.Rngs(0)), nnx.Param, ...)
    structure = jax.tree.structure(params)

    def function(params, tokens):
        return nnx.merge(graph, jax.tree.unflatten(structure, jax.tree.leaves(params)), rest)(
            tokens
        )

    pure = jax.tree.map(lambda leaf: normal(*leaf.shape), nnx.to_pure_dict(params))
    out, down = pure["attention"]["out"], pure["down"]
    out["kernel"] = zeroed(out["kernel"], [0, 3])
    down["kernel"] = zeroed(down["kernel"], [1, 4, 5])
    small = check(Network(function, pure), RNG.integers(0, 7, (BATCH, LENGTH)))
    found = sizes(small.params)
    assert found["attention/query/kernel"] == (8, 2, 2)
    assert found["attention/value/bias"] == (2, 2)
    assert found["attention/out/kernel"] == (2, 2, 8)
    assert found["up/kernel"] == (8, 3)
    assert found["positions/embedding"] == (5, 8)


def test_attention_of_linen():
    model = nn.MultiHeadDotProductAttention(4, qkv_features=12, out_features=3)
    x = normal(BATCH, LENGTH, WIDTH)
    params = jax.tree.map(np.asarray, model.init(jax.random.key(0), x)["params"])
    params["out"]["kernel"] = zeroed(params["out"]["kernel"], 1)
    params["out"]["kernel"] = zeroed(params["out"]["kernel"], slice(None), 2)
    network = Network(lambda params, x: model.apply({"params": params}, x), params)
    found = sizes(check(network, x).params)
    assert found["key/kernel"] == found["query/kernel"] == (8, 3, 3)
    assert found["value/kernel"] == (8, 3, 2)
    assert found["out/kernel"] == (3, 2, 3)


# Experts


def dense_experts(params, x):
    """All experts, weighted by a softmax."""
    hidden = jax.nn.relu(jnp.einsum("btd,edh->bteh", x, params["up"]))
    return jnp.einsum(
        "bte,bteh,ehd->btd", jax.nn.softmax(x @ params["gate"]), hidden, params["down"]
    )


def best_experts(params, x):
    """The best one of each position."""
    value, index = jax.lax.top_k(x @ params["gate"], 1)
    hidden = jax.nn.relu(jnp.einsum("btd,btdh->bth", x, params["up"][index[..., 0]]))
    return value * jnp.einsum("bth,bthd->btd", hidden, params["down"][index[..., 0]])


@pytest.mark.parametrize(("function", "left"), [(dense_experts, 3), (best_experts, 4)])
def test_experts(function, left):
    """Expert 2 is dead, but for the softmax; where one is chosen by its number, all stay."""
    params = {"gate": normal(WIDTH, 4), "up": normal(4, WIDTH, 6)}
    params["down"] = zeroed(zeroed(normal(4, 6, 3), 2), slice(None), [1, 3])
    params = jax.tree.map(jnp.asarray, params)
    small = check(Network(function, params), normal(BATCH, LENGTH, WIDTH))
    assert sizes(small.params) == {
        "gate": (WIDTH, 4), "up": (left, WIDTH, 4), "down": (left, 4, 3)
    }  # fmt: skip


# Norms over units


def layer_norm(h, params, fast):
    mean = h.mean(-1, keepdims=True)
    variance = (h * h).mean(-1, keepdims=True) - mean**2 if fast else h.var(-1, keepdims=True)
    return (h - mean) * jax.lax.rsqrt(variance + 1e-3) * params["scale"] + params["shift"]


@pytest.mark.parametrize(("fast", "width"), [(True, 6), (False, 8)])
def test_a_layer_norm_keeps_channels_of_zeros_unless_nothing_depends_on_them(fast, width):
    """A mean of squares loses zeros; deviations from the mean are no zeros."""
    params = {"in": zeroed(normal(4, 8), ..., [2, 5]), "out": zeroed(normal(8, 2), [2, 5])}
    params |= {"scale": normal(8), "shift": normal(8)}
    network = Network(lambda p, x: layer_norm(x @ p["in"], p, fast) @ p["out"], params)
    assert check(network, normal(3, 4)).params["in"].shape == (4, width)
    read = dict(params, out=normal(8, 2))
    assert check(network.with_params(read), normal(3, 4)).params["in"].shape == (4, 8)
