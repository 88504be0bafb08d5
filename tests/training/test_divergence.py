"""A run whose loss or parameters stop being finite ends, and keeps its last good checkpoint."""

import jax
import jax.numpy as jnp
import optax
import pytest

from sparsejax.training import Batches, Checkpoints, TrainingDivergedError, fit, init_state
from tests.training.mlp import arrays, build

DATA = arrays(1030)


def start(optimizer):
    step, params, optimizer = build(optimizer=optimizer)
    return step, init_state(params, optimizer, jax.random.key(0))


def test_a_nan_loss_names_step_rate_and_checkpoint(tmp_path):
    rate = lambda step: jnp.where(step < 23, 0.05, 1e30)  # noqa: E731
    step, state = start(optax.sgd(rate))
    checkpoints = Checkpoints(tmp_path, every=10)
    with pytest.raises(
        TrainingDivergedError,
        match=r"the loss is (nan|inf) at step 2[45] with learning rate 1e\+30; the last good "
        r"checkpoint is that of step 20",
    ):
        fit(
            step, state, Batches(DATA, 64), steps=45, loop="python", checkpoints=checkpoints,
            learning_rate=rate,
        )  # fmt: skip
    kept = checkpoints.restore(state)
    checkpoints.close()
    assert kept.step == 20
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(kept.state.params))


def test_parameters_that_are_not_finite_never_reach_a_checkpoint(tmp_path):
    """The step before the checkpoint breaks the weights while its own loss is still finite."""
    step, state = start(optax.sgd(lambda step: jnp.where(step == 19, jnp.inf, 0.05)))
    checkpoints = Checkpoints(tmp_path, every=10)
    with pytest.raises(TrainingDivergedError, match="a parameter is not finite at step 19"):
        fit(step, state, Batches(DATA, 64), steps=45, loop="python", checkpoints=checkpoints)
    assert checkpoints.steps() == [10]
    checkpoints.close()


def test_without_checkpoints_divergence_says_so():
    step, state = start(optax.sgd(1e30))
    with pytest.raises(TrainingDivergedError, match="no checkpoint was written yet"):
        fit(step, state, Batches(DATA, 64), steps=45)
