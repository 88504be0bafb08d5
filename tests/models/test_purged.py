"""Purged networks against the gated ones that they come from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sparsejax import gates
from sparsejax.inspection import macs
from sparsejax.models import (
    LENET5_LAYERS,
    LENET300_LAYERS,
    LeNet5,
    LeNet300,
    purged_lenet5,
    purged_lenet300,
)


def split(model, seed):
    """A model as a function of its parameters, and parameters without a zero."""
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    leaves = [0.1 * jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves, strict=True)]
    run = jax.jit(lambda params, images: nnx.merge(graph, params, rest)(images))
    return run, jax.tree.unflatten(tree, leaves)


def closed(gates_of_kernel, share, seed):
    """Each gate open at some level, or closed with the probability ``share``."""
    rng = np.random.default_rng(seed)
    shape = gates_of_kernel.shape
    return jnp.asarray(rng.uniform(0.5, 1, shape) * (rng.random(shape) > share), jnp.float32)


def gated(params, kinds, share, seed):
    phi = kinds.init(jax.random.key(seed), params)
    z = jax.tree.map(lambda leaf: closed(leaf, share, seed), kinds.median(phi))
    return gates.apply(params, z)


IMAGES = np.random.default_rng(0).random((6, 28, 28, 1), np.float32)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("share", [0.0, 0.4, 0.9])
def test_lenet300_without_its_dead_units_computes_the_same(activation, share):
    run, params = split(LeNet300(activation, rngs=nnx.Rngs(0)), 0)
    params = gated(params, gates.hard_concrete(grouping=gates.per_input), share, 1)
    small = purged_lenet300(params, activation)
    np.testing.assert_allclose(jax.jit(small)(IMAGES), run(params, IMAGES), atol=1e-5)
    kernels = [getattr(small, layer).kernel[...] for layer in LENET300_LAYERS]
    read = [(params[layer]["kernel"][...] != 0).any(axis=1) for layer in LENET300_LAYERS]
    assert [len(kernel) for kernel in kernels] == [int(inputs.sum()) for inputs in read]
    assert kernels[0].shape[1] == len(kernels[1])


@pytest.mark.parametrize("share", [0.0, 0.4, 0.7])
def test_lenet5_without_its_dead_channels_and_inputs_computes_the_same(share):
    run, params = split(LeNet5((6, 8, 20), rngs=nnx.Rngs(0)), 0)
    kinds = gates.combine(
        gates.hard_concrete(grouping=gates.per_output, where=lambda path, leaf: leaf.ndim == 4),
        gates.hard_concrete(grouping=gates.per_input, where=lambda path, leaf: leaf.ndim == 2),
    )
    params = gated(params, kinds, share, 3)
    small = purged_lenet5(params)
    np.testing.assert_allclose(jax.jit(small)(IMAGES), run(params, IMAGES), atol=1e-5)
    live = (params["dense1"]["kernel"][...] != 0).any(axis=1).reshape(16, 8)
    live &= (params["conv2"]["kernel"][...] != 0).any(axis=(0, 1, 2))
    assert len(small.kept_inputs) == live.sum()
    assert small.conv2.kernel[...].shape[-1] == live.any(axis=0).sum()
    if share:  # single inputs went although their channel stayed
        assert live.sum() < 16 * live.any(axis=0).sum()
        assert small.conv1.kernel[...].shape[-1] < 6
    graph, params_left, rest = nnx.split(small, nnx.Param, ...)
    kernels = [getattr(small, layer).kernel[...] for layer in LENET5_LAYERS]
    wanted = 576 * kernels[0].size + 64 * kernels[1].size + kernels[2].size + kernels[3].size
    counted = macs(lambda p, x: nnx.merge(graph, p, rest)(x), params_left, IMAGES)
    assert counted == wanted


@pytest.mark.parametrize("of", [(LeNet300, purged_lenet300), (LeNet5, purged_lenet5)])
def test_nothing_left_is_an_error(of):
    model, purged = of
    params = jax.tree.map(jnp.zeros_like, split(model(rngs=nnx.Rngs(0)), 0)[1])
    with pytest.raises(ValueError, match="params leave no path from input to output"):
        purged(params)


def test_an_unknown_activation_is_named():
    with pytest.raises(ValueError, match="activation must be one of .*; got 'elu'"):
        purged_lenet300({}, "elu")
