"""LeNet300 under learning-compression, as several tests train it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import sparsejax
from sparsejax.compression import l0_ball
from sparsejax.models import LeNet300
from sparsejax.training import make_step


def build(axis_name=None):
    """A step of learning-compression (2,000 weights), the initial parameters and the optimizer."""
    graph, params, rest = nnx.split(LeNet300(rngs=nnx.Rngs(0)), nnx.Param, ...)
    optimizer = optax.chain(
        sparsejax.learning_compression(l0_ball(2000), 0.1, 10), optax.sgd(0.05, momentum=0.9)
    )

    def loss(params, batch, key):
        del key
        logits = nnx.merge(graph, params, rest)(batch["image"].astype(jnp.float32) / 255)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()
        return loss, {"train_error": 100 * (logits.argmax(-1) != batch["label"]).mean()}

    return make_step(loss, optimizer, axis_name), params, optimizer


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
    assert kept == 2000
    assert differ <= 4
