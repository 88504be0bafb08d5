"""What optax's wrappers keep of the weights besides the parameters that they are given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import optax

from sparsejax._states import map_states
from sparsejax._variables import PyTree
from sparsejax.transforms._learning_compression import LearningCompressionState
from sparsejax.transforms._masks import HoldZerosState, Masks, zero_outside

_ScheduleFree: type[Any] = optax.contrib.ScheduleFreeState
_Lookahead: type[Any] = optax.LookaheadState
_BEHIND = (optax.contrib.MechanicState, optax.contrib.SAMState)


def fast_weights(params: PyTree) -> PyTree:
    """The weights that are trained: those of ``optax.lookahead`` come in pairs."""
    return params.fast if isinstance(params, optax.LookaheadParams) else params


def for_each_copy(function: Callable[..., PyTree], params: PyTree, updates: PyTree) -> PyTree:
    """``function(params, updates)``, for fast and slow weights each where there are both."""
    if not isinstance(params, optax.LookaheadParams):
        return function(params, updates)
    return optax.LookaheadParams(
        function(params.fast, updates.fast), function(params.slow, updates.slow)
    )


def check_order(opt_state: PyTree, holds: Callable[[Any], bool]) -> None:
    """Raise ValueError where a `hold_zeros` stands so that its zeros cannot last.

    Args:
      opt_state: the whole optimizer state.
      holds: whether a node of it is the state in question.
    """
    within = lambda node: any(map(holds, jax.tree.leaves(node, is_leaf=holds)))  # noqa: E731

    def visit(node: Any) -> None:
        if isinstance(node, _Lookahead) and within(node):
            raise ValueError(
                "hold_zeros inside of optax.lookahead cannot hold the slow weights, which are part "
                "of the parameters; put it behind: optax.chain(optax.lookahead(...), "
                "hold_zeros(mask))"
            )
        if isinstance(node, _BEHIND) and within(node):
            name = type(node).__name__.removesuffix("State").lower()
            raise ValueError(
                f"hold_zeros inside of the {name} wrapper of optax.contrib cannot hold the weights "
                "that the wrapper moves by itself; put it behind: optax.chain(wrapper, "
                "hold_zeros(mask))"
            )
        if isinstance(node, _ScheduleFree) and not within(node):
            raise ValueError(
                "hold_zeros behind optax.contrib.schedule_free cannot hold its iterate z, from "
                "which the evaluated parameters are formed; put it inside: "
                "optax.contrib.schedule_free(optax.chain(..., hold_zeros(mask)), ...)"
            )
        if type(node) is tuple:  # the state of a chain
            places = [place for place, part in enumerate(node) if within(part)]
            later = node[places[-1] + 1 :] if places else ()
            for part in later:
                if not _holds_zeros_alone(part):
                    raise ValueError(
                        "hold_zeros must be the last transformation of a chain, since what follows "
                        f"changes its updates; behind it stands one with {_kind_of(part)}"
                    )

    for node in _nodes(opt_state):
        visit(node)


def prune_copies(opt_state: PyTree, masks: Masks) -> PyTree:
    """``opt_state`` with zeros outside of masks in all copies of the weights that it keeps."""

    def compression(state: LearningCompressionState) -> LearningCompressionState:
        # At a weight that is held, w = 0: with lambda = 0 as well, the C step sees 0 there.
        return state._replace(
            theta=zero_outside(state.theta, masks),
            multipliers=zero_outside(state.multipliers, masks),
        )

    opt_state = map_states(compression, opt_state, LearningCompressionState)
    return map_states(
        lambda state: state._replace(z=zero_outside(state.z, masks)), opt_state, _ScheduleFree
    )


def _kind_of(part: Any) -> str:
    """The type of the first state in a part of a chain's state."""
    for node in _nodes(part):
        if type(node) is not tuple and jax.tree.leaves(node):
            return type(node).__name__
    return "an unknown state"


def _holds_zeros_alone(part: Any) -> bool:
    is_state = lambda node: isinstance(node, HoldZerosState)  # noqa: E731
    return all(map(is_state, jax.tree.leaves(part, is_leaf=is_state)))


def _nodes(tree: PyTree) -> list[Any]:
    """All nodes of a pytree, parents first."""
    found, rest = [], [tree]
    while rest:
        node = rest.pop(0)
        found.append(node)
        children = jax.tree_util.default_registry.flatten_one_level(node)
        rest.extend([] if children is None else children[0])
    return found
