"""Small functions to calibrate, and what their kernels read by float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np

WIDTH, HEADS, SIZE, HIDDEN, WORDS, LAYERS = 32, 4, 8, 48, 17, 2


def decoder_params(seed=0, scale=0.1):
    """Parameters of a decoder: stacked layers, kernels of attention with an axis of heads."""
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return rng.normal(size=shape).astype(np.float32) * scale

    return {
        "embed": {"embedding": draw(WORDS, WIDTH) / scale},
        "layers": {
            "query": {"kernel": draw(LAYERS, WIDTH, HEADS, SIZE)},
            "key": {"kernel": draw(LAYERS, WIDTH, HEADS, SIZE)},
            "value": {"kernel": draw(LAYERS, WIDTH, HEADS, SIZE)},
            "out": {"kernel": draw(LAYERS, HEADS, SIZE, WIDTH)},
            "up": {"kernel": draw(LAYERS, WIDTH, HIDDEN), "bias": draw(LAYERS, HIDDEN)},
            "down": {"kernel": draw(LAYERS, HIDDEN, WIDTH)},
        },
        "head": {"kernel": draw(WIDTH, WORDS)},
    }


def layer(x, params):
    """A layer with attention and a multilayer perceptron, both with residual connections."""
    q, k, v = (
        jnp.einsum("btd,dhs->bths", x, params[n]["kernel"]) for n in ("query", "key", "value")
    )
    weights = jax.nn.softmax(jnp.einsum("bths,buhs->bhtu", q, k))
    mixed = jnp.einsum("bhtu,buhs->bths", weights, v)
    x = x + jnp.einsum("bths,hsd->btd", mixed, params["out"]["kernel"])
    hidden = jnp.tanh(x @ params["up"]["kernel"] + params["up"]["bias"])
    return x + hidden @ params["down"]["kernel"]


def decoder(params, tokens, loop="scan"):
    """Logits [batch, length, words]; the layers in a ``scan``, or one by one."""
    x = params["embed"]["embedding"][tokens]
    if loop == "scan":
        x, _ = jax.lax.scan(lambda x, one: (layer(x, one), None), x, params["layers"])
    elif loop == "fori":
        one = lambda i, x: layer(x, jax.tree.map(lambda w: w[i], params["layers"]))  # noqa: E731
        x = jax.lax.fori_loop(0, LAYERS, one, x)
    else:
        for i in range(LAYERS):
            x = layer(x, jax.tree.map(lambda w, i=i: w[i], params["layers"]))
    return x @ params["head"]["kernel"]


def decoder_inputs(params, tokens):
    """What each kernel reads, as rows: a list for each kernel with an array for each layer."""
    params = jax.tree.map(lambda w: np.asarray(w, np.float64), params)
    x = params["embed"]["embedding"][np.asarray(tokens)]
    found = {}

    def note(name, rows, inputs):
        found.setdefault(name, []).append(rows.reshape(-1, inputs))

    for i in range(LAYERS):
        one = jax.tree.map(lambda w, i=i: w[i], params["layers"])
        for name in ("query", "key", "value"):
            note(f"layers/{name}/kernel", x, WIDTH)
        q, k, v = (
            np.einsum("btd,dhs->bths", x, one[n]["kernel"]) for n in ("query", "key", "value")
        )
        scores = np.einsum("bths,buhs->bhtu", q, k)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        mixed = np.einsum("bhtu,buhs->bths", weights, v)
        note("layers/out/kernel", mixed, HEADS * SIZE)
        x = x + np.einsum("bths,hsd->btd", mixed, one["out"]["kernel"])
        note("layers/up/kernel", x, WIDTH)
        hidden = np.tanh(x @ one["up"]["kernel"] + one["up"]["bias"])
        note("layers/down/kernel", hidden, HIDDEN)
        x = x + hidden @ one["down"]["kernel"]
    note("head/kernel", x, WIDTH)
    return found


def tokens(seed=0, batch=3, length=5):
    """Random tokens [batch, length]."""
    return np.random.default_rng(seed).integers(0, WORDS, (batch, length))


def grams(rows):
    """The Gram matrices of rows, in float64."""
    return np.stack([one.T @ one for one in rows])
