"""A search: a training state that finds tickets, its step, and the way from round to round."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from sparsejax._dtypes import at_least_float32
from sparsejax._extra_args import accepting_extra_args
from sparsejax._states import fresh
from sparsejax._where import PyTree
from sparsejax.tickets._method import Method
from sparsejax.tickets._ticket import Ticket, scale_of

MakeMethod = Method | Callable[[Any], Method]
"""A `Method`, or what makes one from the hyperparameters in a state, such as
``lambda hyper: continuous_sparsification(steps, initial=hyper["initial"])``."""

LossFunction = Callable[..., tuple[jax.Array, Any]]
"""``(params, batch, key) -> (loss, metrics)``; or, for a network with running statistics,
``(params, statistics, batch, key) -> (loss, (metrics, statistics))``."""


class SearchState(NamedTuple):
    """A ``TrainState`` that searches: ``sparsejax.training.fit`` takes it as it is."""

    step: jax.Array
    """int32: steps taken in this round."""
    params: PyTree
    """What is trained: a dict of ``weights`` and perhaps ``gates``."""
    opt_state: PyTree
    key: jax.Array
    """A PRNG key of this round."""
    mask: PyTree
    """What stayed after the rounds before."""
    rewind_params: PyTree
    """Of the first round, what was trained by the step to rewind to."""
    round: jax.Array
    """int32: rounds that have ended."""
    hyper: PyTree
    """Hyperparameters of the method: arrays, an axis of members in a population."""
    statistics: PyTree = None
    """Running statistics of the network, such as those of batch normalisation; None without."""
    rewind_statistics: PyTree = None
    """The running statistics at the step of ``rewind_params``."""


def init_search(
    method: MakeMethod,
    params: PyTree,
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    hyper: PyTree = None,
    statistics: PyTree = None,
) -> SearchState:
    """The state before the first round.

    Args:
      method: the way of searching.
      params: initial weights.
      optimizer: of what is trained, a dict of ``weights`` and perhaps ``gates`` (see
        ``optax.partition`` where they are to have different ones).
      key: a PRNG key, typed (``jax.random.key``) or not.
      hyper: what ``method`` is made from, if it is a function.
      statistics: the running statistics of a network that has some, before the first step. Later
        rounds go on with those of the round before: they forget. A ticket has those of the step
        that it is rewound to.

    Returns:
      A state in which no buffer occurs twice, and none of the arguments': it can be donated.
    """
    start, later = jax.random.split(key)
    trained, mask = made(method, hyper).init(params, start)
    zero = jnp.asarray(0, jnp.int32)
    opt_state = optimizer.init(trained)
    state = SearchState(
        zero, trained, opt_state, later, mask, trained, zero, hyper, statistics, statistics
    )
    return fresh(state)


def search_step(
    method: MakeMethod,
    loss: LossFunction,
    optimizer: optax.GradientTransformation,
    rewind_step: int = 0,
) -> Callable[[SearchState, Any], tuple[SearchState, dict[str, jax.Array]]]:
    """One optimisation step of a round as a pure function, not yet jitted.

    Args:
      method: as for `init_search`.
      loss: ``(params, batch, key) -> (loss, metrics)`` of the network's plain parameters. Where the
        state has ``statistics``: ``(params, statistics, batch, key) -> (loss, (metrics,
        statistics))``.
      optimizer: as for `init_search`. Its ``update`` is given ``value``, ``grad`` and
        ``value_fn`` of what is minimised, the loss plus the method's penalty, if it takes extra
        arguments (``optax.GradientTransformationExtraArgs``), as line searches and
        ``optax.contrib.reduce_on_plateau`` do.
      rewind_step: the step of the first round whose weights later rounds and tickets start from; 0
        for the initial ones.

    Returns:
      ``(state, batch) -> (state, metrics)``; ``metrics`` gains ``loss``, without the penalty.

    Raises:
      ValueError: ``rewind_step`` is not an integer >= 0.
    """
    if isinstance(rewind_step, bool) or int(rewind_step) != rewind_step or rewind_step < 0:
        raise ValueError(f"rewind_step must be an integer >= 0; got {rewind_step!r}")

    optimizer = accepting_extra_args(optimizer)

    def step(state: SearchState, batch):
        way = made(method, state.hyper)
        view_key, loss_key = jax.random.split(jax.random.fold_in(state.key, state.step))

        def total(trained):
            params = way.effective_params(trained, state.mask, state.step, view_key)
            if state.statistics is None:
                value, metrics = loss(params, batch, loss_key)
                statistics = None
            else:
                value, aux = loss(params, state.statistics, batch, loss_key)
                metrics, statistics = aux
            penalty = way.penalty(trained, state.step)
            wide = at_least_float32(value)
            objective = value.astype(wide) + penalty.astype(wide)
            return objective, (value, metrics, statistics)

        (objective, (value, metrics, statistics)), grads = jax.value_and_grad(total, has_aux=True)(
            state.params
        )
        updates, opt_state = optimizer.update(
            grads,
            state.opt_state,
            state.params,
            value=objective,
            grad=grads,
            value_fn=lambda trained: total(trained)[0],
        )
        params = optax.apply_updates(state.params, updates)
        now = state.step + 1
        rewind_params, rewind_statistics = lax.cond(
            (now == rewind_step) & (state.round == 0),
            lambda: (params, statistics),
            lambda: (state.rewind_params, state.rewind_statistics),
        )
        state = state._replace(
            step=now,
            params=params,
            opt_state=opt_state,
            rewind_params=rewind_params,
            statistics=statistics,
            rewind_statistics=rewind_statistics,
        )
        return state, {"loss": value, **metrics}

    return step


def found_ticket(method: MakeMethod, state: SearchState) -> Ticket:
    """The ticket at the end of a round: what stays, with the weights to rewind to. Pure.

    Its arrays are its own: it outlives a state that is donated.
    """
    way = made(method, state.hyper)
    mask = way.mask(state.params, state.mask, _mask_key(state))
    weights, scale = way.weights(state.rewind_params), scale_of(way.scale)
    return fresh(Ticket(mask, weights, scale, state.rewind_statistics))


def next_search(
    method: MakeMethod,
    state: SearchState,
    optimizer: optax.GradientTransformation,
    renew_optimizer: bool = True,
) -> SearchState:
    """The state from which the next round starts: step 0, a fresh optimizer, a smaller mask. Pure.

    Args:
      method: as for `init_search`.
      state: at the end of a round.
      optimizer: as for `init_search`.
      renew_optimizer: whether the optimizer starts anew. False keeps its state, momentum and
        counters alike, as the published code of continuous sparsification does with its momentum;
        a learning rate that is to start anew each round must then be a periodic schedule of the
        step.

    Returns:
      A state in which no buffer occurs twice, and none of ``state``'s.
    """
    way = made(method, state.hyper)
    mask = way.mask(state.params, state.mask, _mask_key(state))
    trained = way.next_round(state.params, state.rewind_params, mask)
    later = state._replace(
        step=jnp.zeros_like(state.step),
        params=trained,
        opt_state=optimizer.init(trained) if renew_optimizer else state.opt_state,
        key=jax.random.fold_in(state.key, state.round + 1),
        mask=mask,
        round=state.round + 1,
    )
    return fresh(later)


def made(method: MakeMethod, hyper: PyTree) -> Method:
    """The method itself."""
    return method if isinstance(method, Method) else method(hyper)


def _mask_key(state: SearchState) -> jax.Array:
    """The same for the ticket of a round and for the round after it."""
    return jax.random.fold_in(state.key, jnp.iinfo(jnp.int32).max)
