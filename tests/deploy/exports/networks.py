"""The networks of `sparsejax.models` with random parameters, made without running them."""

import jax
import numpy as np
from flax import nnx


def network(make, rng):
    """A pure function of parameters and images, and parameters; all numbers drawn at random."""
    model = nnx.eval_shape(make)
    model.eval()
    graph, *states = nnx.split(model, nnx.Param, ...)

    def draw(path, leaf):
        scale = max(1, np.prod(leaf.shape[:-1])) ** -0.5
        numbers = rng.normal(size=leaf.shape).astype(np.float32) * np.float32(scale)
        return abs(numbers) + 1 if "var" in jax.tree_util.keystr(path) else numbers

    params, rest = (jax.tree_util.tree_map_with_path(draw, state) for state in states)
    return lambda params, images: nnx.merge(graph, params, rest, copy=True)(images), params
