"""Random networks of all that moves units about: reshapes, slices, products, norms, loops."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def network(rng):
    """A function of random layers and changes of shape, its parameters, and its input's shape."""
    params, layers = {}, []
    shape = start = (int(rng.integers(1, 5)), int(rng.integers(1, 7)))

    def leaf(*sizes):
        array = rng.normal(size=sizes).astype(np.float32) / np.float32(sizes[0] ** 0.5)
        if len(sizes) > 1:
            array *= rng.random(sizes) < 0.7
            array[..., rng.random(sizes[-1]) < 0.3] = 0
            array[rng.random(sizes[0]) < 0.2] = 0
        params[f"leaf{len(params)}"] = array
        return f"leaf{len(params) - 1}"

    def dense(h, axis):
        kernel, bias = leaf(h.shape[-1], int(rng.integers(1, 8))), leaf(1)
        joined = rng.random() < 0.5  # with the batch, as layers at each time step are
        phi = [jnp.tanh, jax.nn.relu, jax.nn.silu][rng.integers(3)]

        def layer(params, h):
            x = h.reshape(-1, h.shape[-1]) if joined else h
            x = phi(x @ params[kernel] + params[bias])
            return x.reshape(*h.shape[:-1], x.shape[-1])

        return layer

    def scale(h, axis):
        name = leaf(h.shape[-1])
        return lambda params, h: h * params[name]

    def join(h, axis):
        place = int(rng.integers(1, max(2, h.ndim - 1)))
        return lambda params, h: h.reshape(*h.shape[:place], -1, *h.shape[place + 2 :])

    def cleave(h, axis):
        sizes = [n for n in range(1, h.shape[axis] + 1) if h.shape[axis] % n == 0]
        size = int(rng.choice(sizes))
        return lambda params, h: h.reshape(*h.shape[:axis], size, -1, *h.shape[axis + 1 :])

    def index(h, axis):
        place, way = int(rng.integers(-h.shape[axis], h.shape[axis])), rng.integers(3)

        def one(params, h):
            if way == 0:
                return jnp.take(h, place, axis=axis)
            if way == 1:
                return lax.dynamic_index_in_dim(h, place, axis, keepdims=False)
            return h[(slice(None),) * axis + (place,)]

        return one

    def several(h, axis):
        places = rng.integers(0, h.shape[axis], int(rng.integers(1, 6)))
        return lambda params, h: jnp.take(h, places, axis=axis)

    def cut(h, axis):
        start, step = int(rng.integers(h.shape[axis])), int(rng.choice([-1, 1, 2]))
        return lambda params, h: lax.slice_in_dim(h, start, None, axis=axis)[..., ::step]

    def tile(h, axis):
        times = [2 if place == axis else 1 for place in range(h.ndim)]
        return lambda params, h: jnp.tile(h, times)

    def pad(h, axis):
        around = [(1, 2) if place == axis else (0, 0) for place in range(h.ndim)]
        return lambda params, h: jnp.pad(h, around)

    def double(h, axis):
        return lambda params, h: jnp.concatenate([h, 2 * jnp.flip(h, axis)], axis)

    def turn(h, axis):
        order = (0, *(1 + rng.permutation(h.ndim - 1)))
        return lambda params, h: h.transpose(order)

    def norm(h, axis):
        mean = rng.random() < 0.5

        def layer(params, h):
            h = h - h.mean(axis, keepdims=True) if mean else h
            return h * lax.rsqrt(jnp.square(h).mean(axis, keepdims=True) + 0.1)

        return layer

    def total(h, axis):
        reduce = [jnp.sum, jnp.max, jnp.mean][rng.integers(3)]
        return lambda params, h: reduce(h, axis, keepdims=True) + h

    def attend(h, axis):
        """Products of computed values over one axis, and over another one."""
        key, other = leaf(h.shape[-1], h.shape[-1]), int(rng.integers(1, h.ndim))

        def layer(params, h):
            query, keys = (jnp.moveaxis(x, axis, -1) for x in (h, jnp.tanh(h @ params[key])))
            scores = query[..., None] * keys[..., None, :]
            # Not jnp.matmul, which is another operation for a batch of one.
            mixed = jnp.einsum("...ij,...j->...i", jax.nn.softmax(scores, -1), query)
            x = jnp.moveaxis(mixed, -1, axis)
            flat = jnp.moveaxis(x, other, -1)
            flat = flat.reshape(len(x), -1, flat.shape[-1])
            gram = jnp.einsum("bpi,bqi->bpq", flat, flat) / flat.shape[-1]
            mixed = jnp.moveaxis(
                jnp.einsum("bpq,bqi->bpi", gram, flat).reshape(jnp.moveaxis(x, other, -1).shape),
                -1,
                other,
            )
            return x + jnp.tanh(mixed)

        return layer

    def loop(h, axis):
        """Layers, or steps along an axis."""
        if rng.random() < 0.5:
            kernels = leaf(2, h.shape[-1], h.shape[-1])
            step = lambda h, kernel: (h + jnp.tanh(h @ kernel), None)  # noqa: E731
            return lambda params, h: lax.scan(step, h, params[kernels])[0]
        kernel = leaf(h.shape[-1], h.shape[-1])
        if axis == h.ndim - 1:
            return scale(h, axis)

        def layer(params, h):
            def step(state, x):
                state = jnp.tanh(x + state @ params[kernel])
                return state, state * x

            every = jnp.moveaxis(h, axis, 0)
            last, found = lax.scan(step, jnp.zeros_like(every[0]), every)
            return jnp.moveaxis(found + last, 0, axis)

        return layer

    def embed(h, axis):
        table = leaf(2, int(rng.integers(1, 4)))
        return lambda params, h: params[table][(h > 0.1).astype(jnp.int32)]

    kinds = [dense, dense, dense, scale, join, cleave, index, several, cut, tile, pad, double, turn]
    kinds += [norm, total, attend, loop, embed]

    def function(params, x):
        for layer in layers:
            x = layer(params, x)
        return x

    def so_far():
        x = jax.ShapeDtypeStruct((2, *start), jnp.float32)
        return jax.eval_shape(lambda *arguments: function(*arguments), params, x)

    for _ in range(int(rng.integers(3, 10))):
        h = so_far()
        shape = h.shape[1:]
        kind = kinds[rng.integers(len(kinds))]
        if np.prod(shape) < 150 and (len(shape) > 1 or kind not in (join, index)):
            layers.append(kind(h, int(rng.integers(1, h.ndim))))
    h = so_far()
    kernel, bias = leaf(h.shape[-1], 3), leaf(3)
    layers.append(lambda params, h: h @ params[kernel] + params[bias])
    return function, params, start
