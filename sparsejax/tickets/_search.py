"""A search: a training state that finds tickets, its step, and the way from round to round."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from sparsejax._dtypes import at_least_float32
from sparsejax._extra_args import accepting_extra_args
from sparsejax._states import fresh
from sparsejax._step import LossFunction, Metrics, call_loss, gradient_step
from sparsejax._train_state import TrainState
from sparsejax._where import PyTree
from sparsejax.tickets._method import Method
from sparsejax.tickets._ticket import Ticket, scale_of

MakeMethod = Method | Callable[[Any], Method]
"""A `Method`, or what makes one from the hyperparameters in a state, such as
``lambda hyper: continuous_sparsification(steps, initial=hyper["initial"])``."""


class SearchState(NamedTuple):
    """State of a search beside that of training: the ``search`` of a ``TrainState``.

    In such a state ``step`` counts the steps of the present round, ``params`` is a dict of
    ``weights`` and perhaps ``gates``, and ``key`` is the PRNG key of the round. In a population
    every array but ``round`` has a leading axis of members.

    Attributes:
      mask: what stayed after the rounds before, booleans like the parameters.
      rewind_params: the parameters (weights and gates) at the step of the first round that is
        rewound to.
      rewind_statistics: the running statistics of the network at that step; None without.
      round: an int32 scalar, the number of rounds that have ended.
      hyper: hyperparameters of the method, a pytree of arrays; None without.
    """

    mask: PyTree
    rewind_params: PyTree
    rewind_statistics: PyTree
    round: jax.Array
    hyper: PyTree


def init_search(
    method: MakeMethod,
    params: PyTree,
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    hyper: PyTree = None,
    statistics: PyTree = None,
) -> TrainState:
    """Build the state before the first round of a search.

    Args:
      method: the way of searching, or a function that makes it from ``hyper``.
      params: the initial weights, a pytree of arrays.
      optimizer: of what is trained, a dict of ``weights`` and perhaps ``gates`` (use
        ``optax.partition`` for different optimizers of the two).
      key: a PRNG key, typed (``jax.random.key``) or raw.
      hyper: what ``method`` is made from if it is a function, a pytree of arrays.
      statistics: the running statistics of a network that has some, before the first step. Later
        rounds go on with those of the round before. A ticket has those of the step that it is
        rewound to.

    Returns:
      A ``TrainState`` with a `SearchState` in it. No buffer occurs in it twice, and none of the
      arguments' does: it can be donated.
    """
    start, later = jax.random.split(key)
    trained, mask = made(method, hyper).init(params, start)
    zero = jnp.asarray(0, jnp.int32)
    search = SearchState(mask, trained, statistics, zero, hyper)
    return fresh(
        TrainState(zero, trained, optimizer.init(trained), later, statistics, search=search)
    )


def search_step(
    method: MakeMethod,
    loss: LossFunction,
    optimizer: optax.GradientTransformation,
    rewind_step: int = 0,
) -> Callable[[TrainState, Any], tuple[TrainState, Metrics]]:
    r"""Build one optimisation step of a round as a pure function that is not jitted yet.

    .. math:: \min_x \; L(\theta(x, m, t)) + R(x, t)

    Here x is what is trained (weights and gates), m the mask of the rounds before and t the step of
    the round; the method gives the effective parameters theta and the penalty R.

    Args:
      method: as for `init_search`.
      loss: ``(params, batch, key) -> (loss, metrics)`` of the network's plain parameters. Where the
        state has ``statistics``: ``(params, statistics, batch, key) -> (loss, (metrics,
        statistics))``.
      optimizer: as for `init_search`. Its ``update`` receives ``value``, ``grad`` and ``value_fn``
        of the objective, the loss plus the penalty, if it takes extra arguments
        (``optax.GradientTransformationExtraArgs``), as line searches and
        ``optax.contrib.reduce_on_plateau`` do.
      rewind_step: the step of the first round whose weights later rounds and tickets start from; 0
        for the initial ones.

    Returns:
      ``(state, batch) -> (state, metrics)``; ``metrics`` gains ``loss``, without the penalty.

    Raises:
      ValueError: ``rewind_step`` is not an integer >= 0.
    """
    try:
        rewind_at = -1 if isinstance(rewind_step, bool) else operator.index(rewind_step)
    except TypeError:
        rewind_at = -1
    if rewind_at < 0:
        raise ValueError(f"rewind_step must be an integer >= 0; got {rewind_step!r}")
    extra_args_optimizer = accepting_extra_args(optimizer)

    def step(state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        search = search_of(state)
        now = state.step
        way = made(method, search.hyper)
        gates_key, loss_key = jax.random.split(jax.random.fold_in(state.key, now))

        def objective(trained: PyTree) -> tuple[jax.Array, Any]:
            params = way.effective_params(trained, search.mask, now, gates_key)
            value, *aux = call_loss(loss, params, state.statistics, batch, loss_key)
            penalty = way.penalty(trained, now)
            wide = at_least_float32(value)
            return value.astype(wide) + penalty.astype(wide), (value, *aux)

        new, _, (value, metrics, statistics) = gradient_step(objective, extra_args_optimizer, state)
        rewind_params, rewind_statistics = lax.cond(
            (new.step == rewind_at) & (search.round == 0),
            lambda: (new.params, statistics),
            lambda: (search.rewind_params, search.rewind_statistics),
        )
        search = search._replace(rewind_params=rewind_params, rewind_statistics=rewind_statistics)
        return new._replace(statistics=statistics, search=search), {"loss": value, **metrics}

    return step


def found_ticket(method: MakeMethod, state: TrainState) -> Ticket:
    """Read the ticket at the end of a round: what stays, with the weights to rewind to. Pure.

    Args:
      method: as for `init_search`.
      state: at the end of a round.

    Returns:
      A ticket with arrays of its own: it outlives a state that is donated.
    """
    search = search_of(state)
    way = made(method, search.hyper)
    mask = way.mask(state.params, search.mask, _mask_key(state))
    weights, scale = way.weights(search.rewind_params), scale_of(way.scale)
    return fresh(Ticket(mask, weights, scale, search.rewind_statistics))


def next_search(
    method: MakeMethod,
    state: TrainState,
    optimizer: optax.GradientTransformation,
    renew_optimizer: bool = True,
) -> TrainState:
    """Build the state from which the next round starts: step 0, a smaller mask. Pure.

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
    search = search_of(state)
    way = made(method, search.hyper)
    mask = way.mask(state.params, search.mask, _mask_key(state))
    trained = way.next_round(state.params, search.rewind_params, mask)
    later = state._replace(
        step=jnp.zeros_like(state.step),
        params=trained,
        opt_state=optimizer.init(trained) if renew_optimizer else state.opt_state,
        key=jax.random.fold_in(state.key, search.round + 1),
        search=search._replace(mask=mask, round=search.round + 1),
    )
    return fresh(later)


def made(method: MakeMethod, hyper: PyTree) -> Method:
    """The method, made from ``hyper`` if ``method`` is a function.

    Raises:
      TypeError: it is neither.
    """
    if not isinstance(method, Method) and not callable(method):
        raise TypeError(
            "method must be a Method, or a function of the hyperparameters that makes one; got "
            f"{type(method).__name__}"
        )
    return method if isinstance(method, Method) else method(hyper)


def search_of(state: TrainState) -> SearchState:
    """The search in a training state.

    Raises:
      TypeError: the state is of something else.
    """
    search = getattr(state, "search", None)
    if not isinstance(search, SearchState):
        raise TypeError(
            "state must be the state of a search, as init_search or init_population builds it; got "
            + ("a TrainState without one" if search is None else type(search).__name__)
        )
    return search


def _mask_key(state: TrainState) -> jax.Array:
    """The same for the ticket of a round and for the round after it."""
    return jax.random.fold_in(state.key, jnp.iinfo(jnp.int32).max)
