"""What a way of searching is: pure functions that a training step and its rounds call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from chex import Numeric

from sparsejax._where import PyTree


class Method(NamedTuple):
    """A way of finding subnetworks, round by round.

    In a round the data loss of ``effective_params(trained, mask, step, key)`` plus
    ``penalty(trained, step)`` is minimised over ``trained``. After it ``mask`` says what stays, and
    ``next_round`` where the next round starts. Build it where its hyperparameters are known, even
    inside a jitted step: they may be traced.

    Attributes:
      init: ``(params, key) -> (trained, mask)`` before the first round: what is trained, a dict
        with the ``weights`` and perhaps ``gates``, and the mask under which everything stays.
      effective_params: ``(trained, mask, step, key) -> params`` that the network computes with at
        a step of the round.
      penalty: ``(trained, step) -> scalar`` added to the loss.
      mask: ``(trained, mask, key) -> mask`` at the end of a round; a part of the one before,
        unless the method may open again what it closed.
      next_round: ``(trained, rewind_params, mask) -> trained`` for the next round;
        ``rewind_params`` is what was trained by the step to rewind to.
      weights: ``trained -> params``: the weights of a ticket, without its scale.
      scale: a positive scalar, may be traced: a ticket's network computes with scale * mask *
        weights on the leaves that are searched.
    """

    init: Callable[[PyTree, jax.Array], tuple[dict[str, Any], PyTree]]
    effective_params: Callable[[dict[str, Any], PyTree, jax.Array, jax.Array], PyTree]
    penalty: Callable[[dict[str, Any], jax.Array], jax.Array]
    mask: Callable[[dict[str, Any], PyTree, jax.Array], PyTree]
    next_round: Callable[[dict[str, Any], dict[str, Any], PyTree], dict[str, Any]]
    weights: Callable[[dict[str, Any]], PyTree]
    scale: Numeric = 1.0
