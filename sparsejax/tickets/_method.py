"""The interface of a search method: pure functions for the steps and the rounds of a search."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Array, ArrayLike, Bool, Float, Int32, PRNGKeyArray, PyTree

Trained = dict[str, PyTree[Array]]
"""What a search trains: a dict of ``weights`` and, for methods that have them, ``gates``."""


class Method(NamedTuple):
    """A method that searches for subnetworks in rounds of training.

    A round minimises the loss at ``effective_params(trained, mask, step, key)`` plus
    ``penalty(trained, step)`` over ``trained``. At its end ``mask`` returns which weights are kept,
    and ``next_round`` returns where the next round starts. Hyperparameters may be traced, so a
    method can be built inside a jitted step.

    Attributes:
      init: ``(params, key) -> (trained, mask)`` before the first round. ``trained`` is a dict with
        the trees ``weights`` and, for methods that have them, ``gates``; ``mask`` keeps everything.
      effective_params: ``(trained, mask, step, key) -> params``, the parameters with which the
        network computes at a step of the round.
      penalty: ``(trained, step) -> scalar`` that is added to the loss.
      mask: ``(trained, mask, key) -> mask`` at the end of a round, a subset of the mask before
        unless the method can reopen gates.
      next_round: ``(trained, rewind_params, mask) -> trained`` for the next round;
        ``rewind_params`` is ``trained`` as it was at the step to rewind to.
      weights: ``trained -> params``, the weights of a ticket without its scale.
      scale: positive scalar, may be traced; the network of a ticket computes with
        scale * mask * weights on the leaves that are searched.
    """

    init: Callable[[PyTree[Array], PRNGKeyArray], tuple[Trained, PyTree[Bool[Array, "..."]]]]
    effective_params: Callable[
        [Trained, PyTree[Bool[Array, "..."]], Int32[Array, ""], PRNGKeyArray], PyTree[Array]
    ]
    penalty: Callable[[Trained, Int32[Array, ""]], Float[Array, ""]]
    mask: Callable[[Trained, PyTree[Bool[Array, "..."]], PRNGKeyArray], PyTree[Bool[Array, "..."]]]
    next_round: Callable[[Trained, Trained, PyTree[Bool[Array, "..."]]], Trained]
    weights: Callable[[Trained], PyTree[Array]]
    scale: Float[ArrayLike, ""] = 1.0
