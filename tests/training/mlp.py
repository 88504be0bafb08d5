"""A small network under learning-compression, as several tests train it."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax

import sparsejax
from sparsejax.compression import l0_ball
from sparsejax.training import make_step

UNITS = (64, 40, 24, 10)  # eight devices divide a dimension of every kernel
KAPPA = 800  # of 3,760 weights


def arrays(examples):
    """Images of 64 bytes, and labels that a network of the same kind gives them."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (examples, UNITS[0]), np.uint8)
    labels = (images / 255 - 0.5) @ rng.normal(size=(UNITS[0], UNITS[-1]))
    return {"image": images, "label": labels.argmax(-1).astype(np.int32)}


def initial_params():
    rng = np.random.default_rng(1)
    return {
        f"dense{number}": {
            "kernel": jnp.asarray(rng.normal(size=(width, units)) / np.sqrt(width), jnp.float32),
            "bias": jnp.zeros(units),
        }
        for number, (width, units) in enumerate(itertools.pairwise(UNITS))
    }


def logits_of(params, images):
    x = images.astype(jnp.float32) / 255 - 0.5
    for number in range(len(params)):
        layer = params[f"dense{number}"]
        x = (jax.nn.relu(x) if number else x) @ layer["kernel"] + layer["bias"]
    return x


def build(axis_name=None, noise=0.0, optimizer=None):
    """A step of learning-compression, the initial parameters and the optimizer."""
    if optimizer is None:
        optimizer = optax.chain(
            sparsejax.learning_compression(l0_ball(KAPPA), 0.1, 10), optax.sgd(0.05, momentum=0.9)
        )

    def loss(params, batch, key):
        logits = logits_of(params, batch["image"])
        if noise:
            logits += noise * jax.random.normal(key, logits.shape)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()
        return loss, {"train_error": 100 * (logits.argmax(-1) != batch["label"]).mean()}

    return make_step(loss, optimizer, axis_name), initial_params(), optimizer


def assert_close(state, reference):
    """Weights to float tolerance; theta keeps the same entries, but for a few at the threshold."""
    for new, old in zip(
        jax.tree.leaves(state.params), jax.tree.leaves(reference.params), strict=True
    ):
        np.testing.assert_allclose(new, old, atol=2e-5)
    theta = sparsejax.compressed_params(state.opt_state, state.params)
    expected = sparsejax.compressed_params(reference.opt_state, reference.params)
    differ = kept = 0
    for new, old in zip(jax.tree.leaves(theta), jax.tree.leaves(expected), strict=True):
        if new.ndim == 2:
            differ += int(((np.asarray(new) != 0) != (np.asarray(old) != 0)).sum())
            kept += int((np.asarray(new) != 0).sum())
    assert kept == KAPPA
    assert differ <= 4


def assert_same_bits(one, other):
    for new, old in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        if jnp.issubdtype(old.dtype, jax.dtypes.prng_key):
            new, old = jax.random.key_data(new), jax.random.key_data(old)
        np.testing.assert_array_equal(np.asarray(new), np.asarray(old))
