"""Support for wrappers in optax that keep further copies of the weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import optax
from jaxtyping import PyTree

from sparsejax._masks import apply_mask_by_path
from sparsejax._states import map_states
from sparsejax.transforms._learning_compression import LearningCompressionState
from sparsejax.transforms._masks import HoldZerosState, Masks

_ScheduleFree: type[Any] = optax.contrib.ScheduleFreeState
_Lookahead: type[Any] = optax.LookaheadState
_BEHIND = (optax.contrib.MechanicState, optax.contrib.SAMState)


def fast_weights(params: PyTree) -> PyTree:
    """Return the weights that are trained, which are the fast ones under ``optax.lookahead``."""
    return params.fast if isinstance(params, optax.LookaheadParams) else params


def for_each_copy(function: Callable[..., PyTree], params: PyTree, updates: PyTree) -> PyTree:
    """Call ``function(params, updates)``, once each for fast and slow weights if there are both."""
    if not isinstance(params, optax.LookaheadParams):
        return function(params, updates)
    return optax.LookaheadParams(
        function(params.fast, updates.fast), function(params.slow, updates.slow)
    )


def check_order(opt_state: PyTree, holds: Callable[[Any], bool]) -> None:
    """Check that a `hold_zeros` stands where it can hold weights at zero.

    Args:
      opt_state: the whole optimizer state.
      holds: whether a node of ``opt_state`` is the state of the `hold_zeros` in question.

    Raises:
      ValueError: the order is wrong; the message names an order that works.
    """

    def within(node: Any) -> bool:
        return any(map(holds, jax.tree.leaves(node, is_leaf=holds)))

    def visit(node: Any) -> None:
        if isinstance(node, _Lookahead) and within(node):
            raise ValueError(
                "hold_zeros must stand behind optax.lookahead, since inside of it the slow weights "
                "do not remain zero: optax.chain(optax.lookahead(...), hold_zeros(mask))"
            )
        if isinstance(node, _BEHIND) and within(node):
            name = type(node).__name__.removesuffix("State").lower()
            raise ValueError(
                f"hold_zeros must stand behind the {name} wrapper of optax.contrib, which moves "
                "the weights itself: optax.chain(wrapper, hold_zeros(mask))"
            )
        if isinstance(node, _ScheduleFree) and not within(node):
            raise ValueError(
                "hold_zeros must stand inside optax.contrib.schedule_free, since behind it the "
                "iterate z, which the evaluation parameters depend on, does not remain zero: "
                "optax.contrib.schedule_free(optax.chain(..., hold_zeros(mask)), ...)"
            )
        if type(node) is tuple:  # the state of a chain
            places = [place for place, part in enumerate(node) if within(part)]
            later = node[places[-1] + 1 :] if places else ()
            for part in later:
                if not _holds_zeros_alone(part):
                    raise ValueError(
                        "hold_zeros must be the last transformation of a chain, since others "
                        f"change its updates; one with {_kind_of(part)} stands behind it"
                    )

    for node in _nodes(opt_state):
        visit(node)


def prune_copies(opt_state: PyTree, masks: Masks) -> PyTree:
    """Set all copies of the weights in ``opt_state`` to zero outside of masks."""

    def compression(state: LearningCompressionState) -> LearningCompressionState:
        # The C step sees w - lambda / mu, which is 0 for a pruned weight if lambda is 0.
        return state._replace(
            theta=apply_mask_by_path(state.theta, masks),
            multipliers=apply_mask_by_path(state.multipliers, masks),
        )

    opt_state = map_states(compression, opt_state, LearningCompressionState)
    return map_states(
        lambda state: state._replace(z=apply_mask_by_path(state.z, masks)), opt_state, _ScheduleFree
    )


def _kind_of(part: Any) -> str:
    """Return the name of the type of the first state in a part of a chain's state."""
    for node in _nodes(part):
        if type(node) is not tuple and jax.tree.leaves(node):
            return type(node).__name__
    return "an unknown state"


def _holds_zeros_alone(part: Any) -> bool:
    is_state = lambda node: isinstance(node, HoldZerosState)  # noqa: E731
    return all(map(is_state, jax.tree.leaves(part, is_leaf=is_state)))


def _nodes(tree: PyTree) -> list[Any]:
    """Return all nodes of a pytree, parents first."""
    found, rest = [], [tree]
    while rest:
        node = rest.pop(0)
        found.append(node)
        children = jax.tree_util.default_registry.flatten_one_level(node)
        rest.extend([] if children is None else children[0])
    return found
