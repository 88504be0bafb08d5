"""Learning-compression as a gradient transformation."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from sparsejax import _checks
from sparsejax._states import states_in
from sparsejax._where import PyTree, Where, mask_out
from sparsejax.compression import Compression

_L_STEPS_CHECKED = 100  # how far ahead a mu schedule is looked at when it is given


class LearningCompressionState(NamedTuple):
    """State of `learning_compression`. Trees hold ``optax.MaskedNode()`` for leaves not chosen."""

    l_step: jax.Array
    """int32: how many C steps have followed an L step."""
    steps_left: jax.Array
    """int32: updates left in this L step."""
    mu: jax.Array
    """float32: the penalty's weight in this L step."""
    theta: PyTree
    """The compressed weights, like the parameters."""
    multipliers: PyTree | None
    """Estimates of the Lagrange multipliers of w = theta, float32 or wider; None for the
    quadratic penalty."""
    compression: PyTree
    """State of the C step."""


def learning_compression(
    compression: Compression,
    mu_schedule: optax.ScalarOrSchedule,
    steps_per_l_step: int,
    first_l_step: int | None = None,
    multipliers: bool = True,
    where: Where = None,
) -> optax.GradientTransformation:
    r"""Train towards weights that compress without loss, alternating L steps and C steps.

    For  min L(w) + P(theta)  s.t.  w = theta,  the gradient of the augmented Lagrangian

    .. math:: \nabla L(w) + \mu(w-\theta) - \lambda

    replaces the loss's gradient (the L step: ordinary training), and at the end of L step n

    .. math:: \theta \leftarrow \arg\min_\theta \tfrac{\mu_n}{2}\|w-\lambda/\mu_n-\theta\|^2
              + P(\theta), \qquad \lambda \leftarrow \lambda - \mu_n(w-\theta), \qquad
              \mu \leftarrow \mu_{n+1}.

    With ``multipliers=False`` lambda stays 0: the quadratic-penalty method. It starts by direct
    compression: ``init`` runs a C step on the given (trained) parameters.

    Put it first in a chain, so that the optimizer sees the whole gradient::

        optax.chain(learning_compression(l0_ball(5324), mu, 1175), optax.sgd(0.1, momentum=0.9))

    The C step of an L step is run by its last ``update``, on the parameters given there, before
    the gradient of that update is formed; so after every L step `compressed_params` is up to date.
    It runs only then, also under ``vmap`` (where members may be at different steps); the price is
    that ``update`` cannot be differentiated in reverse mode.

    Args:
      compression: the C step.
      mu_schedule: the weight of the penalty for L step ``n = 0, 1, ...``, positive and
        non-decreasing, e.g. ``optax.exponential_decay(9e-5, 1, 1.1)``; a number for a constant.
      steps_per_l_step: updates in an L step, at least 1.
      first_l_step: updates in the first L step; default ``steps_per_l_step``.
      multipliers: keep multipliers (augmented Lagrangian) or not (quadratic penalty).
      where: which leaves are compressed (jointly); the gradient of the others is left alone.

    Returns:
      A ``GradientTransformation``; ``update`` needs ``params``. Its state adds to each chosen leaf
      a theta of the leaf's dtype and, with multipliers, one of float32 or wider.

    Raises:
      TypeError: a chosen leaf is not floating point.
      ValueError: ``steps_per_l_step`` or ``first_l_step`` is not a positive integer; the schedule
        is not positive and non-decreasing over its first 100 L steps (a traced one is not
        checked); in ``init``: the parameters hold NaN or ``where`` chooses nothing; in
        ``update``: ``params`` is missing.

    References:
      Carreira-Perpinan and Idelbayev, "Learning-compression" algorithms for neural net pruning,
      CVPR 2018.
    """
    steps_per_l_step = _positive_int("steps_per_l_step", steps_per_l_step)
    first = steps_per_l_step if first_l_step is None else first_l_step
    first = _positive_int("first_l_step", first)
    schedule = mu_schedule if callable(mu_schedule) else optax.constant_schedule(mu_schedule)
    _check_mu_schedule(schedule)

    def mu_at(l_step) -> jax.Array:
        return jnp.asarray(schedule(l_step), jnp.float32)

    def init(params):
        weights = mask_out(params, where)
        mu = mu_at(jnp.asarray(0, jnp.int32))
        theta, state = compression.project(weights, mu, compression.init(weights))
        zeros = jax.tree.map(lambda w: jnp.zeros_like(w, _wide(w)), weights)
        return LearningCompressionState(
            l_step=jnp.asarray(0, jnp.int32),
            steps_left=jnp.asarray(first, jnp.int32),
            mu=mu,
            theta=theta,
            multipliers=zeros if multipliers else None,
            compression=state,
        )

    def c_step(weights, state):
        mu = state.mu
        if multipliers:
            shifted = jax.tree.map(
                lambda w, lam: (w - lam / mu).astype(w.dtype), weights, state.multipliers
            )
            theta, inner = compression.project(shifted, mu, state.compression)
            lambdas = jax.tree.map(
                lambda w, t, lam: lam - mu * (w.astype(lam.dtype) - t.astype(lam.dtype)),
                weights, theta, state.multipliers,
            )  # fmt: skip
        else:
            theta, inner = compression.project(weights, mu, state.compression)
            lambdas = None
        l_step = state.l_step + 1
        return LearningCompressionState(
            l_step=l_step,
            steps_left=jnp.asarray(steps_per_l_step, jnp.int32),
            mu=mu_at(l_step),
            theta=theta,
            multipliers=lambdas,
            compression=inner,
        )

    def update(updates, state, params=None):
        if params is None:
            raise ValueError("params must be passed to update: the gradient depends on them")
        weights = mask_out(params, where)
        state = state._replace(steps_left=state.steps_left - 1)
        # A loop of at most one trip, since a C step refills steps_left. `lax.cond` says the same,
        # but under vmap it becomes a select that runs the C step at every update.
        state = lax.while_loop(
            lambda state: state.steps_left == 0, lambda state: c_step(weights, state), state
        )

        def augmented(gradient, w, theta, lam=None):
            if isinstance(w, optax.MaskedNode):
                return gradient
            wide = _wide(w)
            pull = state.mu * (w.astype(wide) - theta.astype(wide))
            return (gradient + (pull if lam is None else pull - lam)).astype(gradient.dtype)

        trees = (weights, state.theta) + ((state.multipliers,) if multipliers else ())
        return _map_leaves(augmented, updates, *trees), state

    return optax.GradientTransformation(init, update)


def compressed_params(opt_state: PyTree, params: PyTree) -> PyTree:
    """``params`` with theta in the place of the compressed weights.

    Args:
      opt_state: any optimizer state with one or more `LearningCompressionState` in it, however
        deeply chained, masked or wrapped.
      params: the parameters that state belongs to.

    Returns:
      A tree like ``params``: theta where a leaf is compressed, the leaf itself elsewhere.

    Raises:
      ValueError: ``opt_state`` holds no state of `learning_compression`.
    """
    found = states_in(opt_state, LearningCompressionState)
    if not found:
        raise ValueError("opt_state holds no state of sparsejax.learning_compression")
    for state in found:
        params = _map_leaves(
            lambda w, theta: w if isinstance(theta, optax.MaskedNode) else theta,
            params,
            state.theta,
        )
    return params


def _map_leaves(function, tree: PyTree, *others: PyTree) -> PyTree:
    """``jax.tree.map`` in which an ``optax.MaskedNode`` counts as a leaf."""
    is_masked = lambda node: isinstance(node, optax.MaskedNode)  # noqa: E731
    return jax.tree.map(function, tree, *others, is_leaf=is_masked)


def _wide(leaf) -> jnp.dtype:
    return jnp.promote_types(leaf.dtype, jnp.float32)


def _positive_int(name: str, value) -> int:
    if isinstance(value, bool) or int(value) != value or value < 1:
        raise ValueError(f"{name} must be an integer >= 1; got {value!r}")
    return int(value)


def _check_mu_schedule(schedule: optax.Schedule) -> None:
    before = np.float64(0)
    for n in range(_L_STEPS_CHECKED):
        mu = _checks.known(schedule(n))
        if mu is None:  # it depends on a traced hyperparameter
            return
        if mu.shape != () or not mu > 0 or not mu >= before:
            raise ValueError(
                "mu_schedule must be positive and non-decreasing over the L steps; it gives "
                f"{mu} at L step {n}" + (f" after {before}" if n else "")
            )
        before = np.float64(mu)
