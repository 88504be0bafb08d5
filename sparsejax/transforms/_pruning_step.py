"""Pruning a training state: by itself, or inside the training step every so often."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
from chex import Numeric
from jax import lax

from sparsejax._states import states_in
from sparsejax._where import PyTree
from sparsejax.transforms._gated_weight_decay import GatedWeightDecayState, reset_decay_schedule
from sparsejax.transforms._hold_zeros import set_mask
from sparsejax.transforms._prune_when_accurate import Pruner, PruningState

State = TypeVar("State", bound=tuple)


class PruningTrainState(NamedTuple):
    """A ``sparsejax.training.TrainState`` that prunes: its fields and one more."""

    step: jax.Array
    """int32: steps taken."""
    params: PyTree
    opt_state: PyTree
    """Of an optimizer with a `hold_zeros` in it."""
    key: jax.Array
    """A typed PRNG key."""
    pruning: PruningState
    """Of the pruner."""


def prune_state(state: State, pruner: Pruner, accuracy: Numeric) -> State:
    """One assessment of a training state: prune it, and let its optimizer know.

    The pruner is asked; the new mask goes to the optimizer's `hold_zeros`, and where weights were
    pruned the schedule of `gated_weight_decay`, if there is one, begins anew. For a loop that finds
    the accuracy outside a jitted step, from a split on disk; `pruning_step` does it inside::

        state = prune_state(state, pruner, accuracy)

    Args:
      state: a `PruningTrainState`, or any NamedTuple with its fields ``params``, ``opt_state`` and
        ``pruning``; an optimizer with a `hold_zeros` in it made ``opt_state``.
      pruner: a `prune_when_accurate`.
      accuracy: a fraction in ``[0, 1]``, may be traced.

    Returns:
      A state like it. Pure and jittable.

    Raises:
      ValueError: a known ``accuracy`` is out of its range; ``opt_state`` holds no `hold_zeros`.
    """
    fields: Any = state
    params, pruning = pruner.update(fields.pruning, fields.params, accuracy)
    opt_state = set_mask(fields.opt_state, pruning.mask)
    if states_in(opt_state, GatedWeightDecayState):
        opt_state = reset_decay_schedule(opt_state, pruning.prunings > fields.pruning.prunings)
    return fields._replace(params=params, opt_state=opt_state, pruning=pruning)


def pruning_step(
    step: Callable[[State, Any], tuple[State, Any]],
    pruner: Pruner,
    accuracy: Callable[[PyTree], Numeric],
    every: int,
) -> Callable[[State, Any], tuple[State, Any]]:
    """A step that assesses and prunes after every ``every`` steps, inside the same program.

    After a step whose new number is a multiple of ``every`` the accuracy is taken and the state
    pruned (see `prune_state`). No host is asked, so it runs in scanned blocks, and a resumed run
    prunes at the same steps::

        optimizer = optax.chain(gated_weight_decay(decay), optax.adam(1e-3), hold_zeros(mask))
        step = pruning_step(make_step(loss, optimizer), pruner, accuracy, every=250)
        state = PruningTrainState(*init_state(params, optimizer, key), pruner.init(params))
        state = fit(step, state, data, batch_size=100, steps=66_000)

    Args:
      step: ``(state, batch) -> (state, metrics)``, such as ``sparsejax.training.make_step``.
      pruner: a `prune_when_accurate`.
      accuracy: ``params -> accuracy`` on data it holds, a fraction in ``[0, 1]``; of a large split,
        in batches (``jax.lax.map``).
      every: steps between assessments.

    Returns:
      ``(state, batch) -> (state, metrics)``, not yet jitted. The state is a `PruningTrainState`, or
      any NamedTuple with its fields.

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

    def assess(state):
        return prune_state(state, pruner, accuracy(state.params))

    def take(state, batch):
        state, metrics = step(state, batch)
        return lax.cond(state.step % every == 0, assess, lambda state: state, state), metrics

    return take
