"""Pruning a training state: by itself, or periodically inside the training step."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from jax import lax
from jaxtyping import Array, ArrayLike, Float, PyTree

from sparsejax._states import states_in
from sparsejax._train_state import TrainState
from sparsejax.transforms._gated_weight_decay import GatedWeightDecayState, reset_decay_schedule
from sparsejax.transforms._hold_zeros import set_mask
from sparsejax.transforms._prune_when_accurate import Pruner


def prune_state(state: TrainState, pruner: Pruner, accuracy: Float[ArrayLike, ""]) -> TrainState:
    """Assess a training state once: prune it, and update its optimizer.

    The pruner is asked; the new mask goes to the optimizer's `hold_zeros`, and where weights were
    pruned the schedule of `gated_weight_decay`, if there is one, begins anew. This is for a loop
    that finds the accuracy outside a jitted step, from a split on disk; `pruning_step` does it
    inside::

        callback = revise(lambda state: prune_state(state, pruner, accuracy(state)), every=250)

    Args:
      state: a ``sparsejax.training.TrainState`` whose ``pruning`` is the state of the pruner; an
        optimizer with a `hold_zeros` in it made its ``opt_state``.
      pruner: a `prune_when_accurate`.
      accuracy: a fraction in ``[0, 1]``, may be traced.

    Returns:
      The state after the assessment. Pure and jittable.

    Raises:
      ValueError: a known ``accuracy`` is out of its range; ``opt_state`` holds no `hold_zeros`.
    """
    params, pruning = pruner.update(state.pruning, state.params, accuracy)
    opt_state = set_mask(state.opt_state, pruning.mask)
    if states_in(opt_state, GatedWeightDecayState):
        opt_state = reset_decay_schedule(opt_state, pruning.prunings > state.pruning.prunings)
    return state._replace(params=params, opt_state=opt_state, pruning=pruning)


def pruning_step(
    step: Callable[[TrainState, Any], tuple[TrainState, Any]],
    pruner: Pruner,
    accuracy: Callable[[PyTree[Array]], Float[ArrayLike, ""]],
    every: int,
) -> Callable[[TrainState, Any], tuple[TrainState, Any]]:
    """Build a step that assesses and prunes after every ``every`` steps, in the same program.

    After a step whose new number is a multiple of ``every`` the accuracy is computed and the state
    is pruned (see `prune_state`). The host is not asked, so this runs in scanned blocks, and a
    resumed run prunes at the same steps::

        optimizer = optax.chain(gated_weight_decay(decay), optax.adam(1e-3), hold_zeros(mask))
        step = pruning_step(make_step(loss, optimizer), pruner, accuracy, every=250)
        state = init_state(params, optimizer, key)._replace(pruning=pruner.init(params))
        state = fit(step, state, Batches(data, 100), steps=66_000)

    Args:
      step: ``(state, batch) -> (state, metrics)``, such as ``sparsejax.training.make_step``.
      pruner: a `prune_when_accurate`.
      accuracy: ``params -> accuracy`` on data that it holds, a fraction in ``[0, 1]``; of a large
        split, in batches (``jax.lax.map``).
      every: steps between assessments.

    Returns:
      ``(state, batch) -> (state, metrics)``, not jitted yet. The state is a
      ``sparsejax.training.TrainState`` whose ``pruning`` is the state of the pruner.

    Raises:
      ValueError: ``every`` is not an integer >= 1; when it runs: ``opt_state`` holds no
        `hold_zeros`.
    """
    try:
        every = operator.index(every)
    except TypeError:
        every = 0
    if every < 1:
        raise ValueError(f"every must be an integer >= 1; got {every}")

    def assess(state: TrainState) -> TrainState:
        return prune_state(state, pruner, accuracy(state.params))

    def take(state: TrainState, batch: Any) -> tuple[TrainState, Any]:
        state, metrics = step(state, batch)
        return lax.cond(state.step % every == 0, assess, lambda state: state, state), metrics

    return take
