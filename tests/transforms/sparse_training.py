"""What the tests of methods with masks share: parameters, gradients and runs."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sparsejax.transforms import masked_params

SHAPES = {"a": (16, 24), "b": (8, 40), "bias": (24,)}


def start(dtype=jnp.float32, seed=0):
    """New arrays at each call, since some tests donate them."""
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.normal(size=shape), dtype) for name, shape in SHAPES.items()}


def gradients(steps, seed=1, dtype=jnp.float32):
    """A gradient for each step, stacked; the same ones for any number of steps up to 16."""
    rng = np.random.default_rng(seed)
    return {
        name: jnp.asarray(rng.normal(size=(16, *shape))[:steps], dtype)
        for name, shape in SHAPES.items()
    }


def step(optimizer):
    """One step with given gradients: elementwise, so that no sum depends on its order."""

    def take(carry, grads):
        params, state = carry
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    return take


def run(optimizer, steps, params=None, seed=1, state=None, first=0):
    """A jitted step for each gradient; yields the parameters and the state after each."""
    params = start() if params is None else params
    if state is None:
        state = optimizer.init(params)
        params = masked_params(state, params)
    take = jax.jit(step(optimizer))
    grads = gradients(steps, seed)
    for n in range(first, steps):
        (params, state), _ = take((params, state), jax.tree.map(lambda g, n=n: g[n], grads))
        yield params, state


def last(optimizer, steps, **options):
    *_, (params, state) = run(optimizer, steps, **options)
    return params, state


def nonzeros(params):
    return {name: int((leaf != 0).sum()) for name, leaf in params.items() if name != "bias"}


def same(got, wanted):
    jax.tree.map(np.testing.assert_array_equal, got, wanted)
