"""Random networks on sequences of any length: attention, norms, loops, residuals, convolutions."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def network(rng):
    """A function of random blocks on [batch, length, width], its parameters, and the width."""
    params, blocks = {}, []
    width = int(rng.integers(2, 7))

    def leaf(*sizes, dead=0.3):
        array = rng.normal(size=sizes).astype(np.float32) / np.float32(sizes[-2:][0] ** 0.5)
        array *= rng.random(sizes) < 0.8
        for axis in range(len(sizes)):
            if sizes[axis] > 1:
                index = (slice(None),) * axis + (rng.random(sizes[axis]) < dead,)
                array[index] = 0
        params[f"leaf{len(params)}"] = array
        return f"leaf{len(params) - 1}"

    def function_of_entries():
        return [jnp.tanh, jax.nn.relu, jax.nn.silu, jax.nn.gelu][rng.integers(4)]

    def norm(width):
        scale, kind = leaf(width, dead=0), int(rng.integers(4))

        def layer(p, h):
            if kind == 0:
                return h * p[scale]
            if kind == 1:
                return h * lax.rsqrt((h * h).mean(-1, keepdims=True) + 0.1) * p[scale]
            if kind == 2:
                return p[scale] * h / (jnp.abs(h).sum(-1, keepdims=True) + 1)
            h = h - h.mean(-1, keepdims=True)
            return h * lax.rsqrt(h.var(-1, keepdims=True) + 0.1) * p[scale]

        return layer

    def feed_forward(width):
        hidden, gated = int(rng.integers(1, 8)), rng.random() < 0.5
        up, gate, down, bias = (
            leaf(width, hidden), leaf(width, hidden), leaf(hidden, width), leaf(hidden)
        )  # fmt: skip
        phi = function_of_entries()

        def layer(p, h):
            x = phi(h @ p[up] + p[bias])
            return (x * (h @ p[gate]) if gated else x) @ p[down]

        return layer

    def attention(width):
        groups, shared, size = (int(n) for n in rng.integers(1, 4, 3))
        query = leaf(width, groups * shared, size)
        key, value = leaf(width, groups, size), leaf(width, groups, size)
        out, causal, kind = leaf(groups * shared, size, width), rng.random() < 0.5, rng.integers(3)

        def layer(p, h):
            q, k, v = (jnp.einsum("btd,dhs->bths", h, p[name]) for name in (query, key, value))
            if kind == 0:
                mixed = jax.nn.dot_product_attention(q, k, v, is_causal=causal)
            else:
                k, v = (jnp.repeat(x, shared, axis=2).swapaxes(1, 2) for x in (k, v))
                if kind == 1:  # traced otherwise for a batch of one
                    scores = q.swapaxes(1, 2) @ k.swapaxes(2, 3)
                else:
                    scores = jnp.einsum("bqhs,bhks->bhqk", q, k)
                if causal:
                    scores = jnp.where(jnp.tri(h.shape[1], dtype=bool), scores, -1e9)
                mixed = jnp.einsum("bhqk,bhks->bqhs", jax.nn.softmax(scores), v)
            return jnp.einsum("bqhs,hsd->bqd", mixed, p[out])

        return layer

    def convolution(width):
        depthwise, gap = rng.random() < 0.5, int(rng.integers(1, 3))
        kernel = leaf(3, 1 if depthwise else width, width)
        mixed = leaf(width, width)

        def layer(p, h):
            h = lax.conv_general_dilated(
                h, p[kernel], (1,), [(2 * gap, 0)], rhs_dilation=(gap,),
                dimension_numbers=("NWC", "WIO", "NWC"),
                feature_group_count=width if depthwise else 1,
            )  # fmt: skip
            return jax.nn.relu(h) @ p[mixed]

        return layer

    def recurrence(width):
        hidden, back = int(rng.integers(1, 6)), rng.random() < 0.5
        inner, state, out = leaf(width, 3 * hidden), leaf(hidden, 3 * hidden), leaf(hidden, width)

        def layer(p, h):
            def step(s, x):
                a, b = x @ p[inner], s @ p[state]
                r, z = (
                    jax.nn.sigmoid(a[:, i : i + hidden] + b[:, i : i + hidden]) for i in (0, hidden)
                )
                new = jnp.tanh(a[:, 2 * hidden :] + r * b[:, 2 * hidden :])
                s = (1 - z) * new + z * s
                return s, s

            every = h.swapaxes(0, 1)
            _, found = lax.scan(step, jnp.zeros((h.shape[0], hidden)), every, reverse=back)
            return found.swapaxes(0, 1) @ p[out]

        return layer

    def stacked(width):
        up, down = leaf(3, width, 4), leaf(3, 4, width)
        phi = function_of_entries()

        def layer(p, h):
            step = lambda h, w: (h + phi(h @ w[0]) @ w[1], None)  # noqa: E731
            return lax.scan(step, h, (p[up], p[down]))[0]

        return layer

    def experts(width):
        gate, up, down = leaf(width, 3, dead=0), leaf(3, width, 4), leaf(3, 4, width)
        best = rng.random() < 0.3

        def layer(p, h):
            if best:
                value, index = lax.top_k(h @ p[gate], 1)
                x = jax.nn.relu(jnp.einsum("btd,btdh->bth", h, p[up][index[..., 0]]))
                return value * jnp.einsum("bth,bthd->btd", x, p[down][index[..., 0]])
            x = jax.nn.relu(jnp.einsum("btd,edh->bteh", h, p[up]))
            return jnp.einsum("bte,bteh,ehd->btd", jax.nn.softmax(h @ p[gate]), x, p[down])

        return layer

    def mixed_positions(width):
        kind, kernel = rng.integers(5), leaf(width, width)

        def layer(p, h):
            h = h @ p[kernel]
            if kind == 0:
                return jnp.fft.fft(h, axis=1).real
            if kind == 1:
                return jnp.cumsum(h, axis=1)
            if kind == 2:
                return lax.associative_scan(lambda a, b: 0.5 * a + b, h, axis=1)
            if kind == 3:
                return jnp.zeros_like(h).at[:, 1:].add(h[:, :-1])
            return h + jnp.max(h, 1, keepdims=True)

        return layer

    def hard(width):
        """What is refused, unless what it reads is kept."""
        kind, kernel = rng.integers(4), leaf(width, width)

        def layer(p, h):
            h = h @ p[kernel]
            if kind == 0:
                return jnp.sort(h, -1)
            if kind == 1:
                return jnp.cumsum(h, -1)
            if kind == 2:
                return lax.cond(h.sum() > 0, jnp.tanh, jnp.sin, h)
            again = lambda state: (state[0] + 1, jnp.tanh(state[1]))  # noqa: E731
            return lax.while_loop(lambda state: state[0] < 2, again, (0, h))[1]

        return layer

    kinds = [feed_forward, feed_forward, attention, attention, convolution, recurrence, stacked]
    kinds += [experts, mixed_positions]
    tokens = rng.random() < 0.5
    table, first = leaf(9, width), leaf(width, width)
    for _ in range(int(rng.integers(1, 5))):
        kind = hard if rng.random() < 0.04 else kinds[rng.integers(len(kinds))]
        before, block = norm(width), kind(width)
        after, residual = norm(width), rng.random() < 0.7
        blocks.append((before, block, after, residual))
    head, bias, pooled = leaf(width, 3), leaf(3), rng.random() < 0.5

    def function(p, x):
        h = p[table][(jnp.abs(x[..., 0]) * 4).astype(jnp.int32) % 9] if tokens else x @ p[first]
        for before, block, after, residual in blocks:
            new = block(p, before(p, h))
            h = after(p, h + new if residual else new)
        logits = h @ p[head] + p[bias]
        return {"logits": logits.mean(1) if pooled else logits, "last": h[:, -1] @ p[head]}

    return function, {name: jnp.asarray(array) for name, array in params.items()}, width
