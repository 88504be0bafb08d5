"""Learning-compression as a gradient transformation."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from sparsejax import _checks
from sparsejax._dtypes import at_least_float32, promoted
from sparsejax._states import fresh, replace_leaves, states_in
from sparsejax._variables import Path, flatten_with_path
from sparsejax._where import PyTree, Where, is_masked, mask_out, refuse_tied
from sparsejax.compression import Compression
from sparsejax.transforms._masks import held_masks, name, names, zero_outside

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
    steps_in_first_l_step: int | None = None,
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

    A C step is run by an ``update``, on the parameters given there, before the gradient of that
    update is formed: by the last update of each L step, so `compressed_params` is up to date when
    an L step has ended. It runs only then, also under ``vmap`` (where members may be at different
    steps); the price is that ``update`` cannot be differentiated in reverse mode.

    Beside `hold_zeros` and `prune_when_accurate` pruned weights never return, neither in w nor in
    theta. Several of these transformations in one chain each need leaves of their own (``where``).

    Args:
      compression: the C step.
      mu_schedule: the weight of the penalty for L step ``n = 0, 1, ...``, positive and
        non-decreasing, e.g. ``optax.exponential_decay(9e-5, 1, 1.1)``; a Python number for a
        constant. It is read once per L step, not per update. ``optax.inject_hyperparams`` reads
        schedules once per update, so it must not be given this one: name it in its ``static_args``,
        or build the schedule inside of the function that is injected.
      steps_per_l_step: updates in an L step, at least 1.
      steps_in_first_l_step: gradient steps before the first C step, at least 0. By default
        ``steps_per_l_step - 1``, so that the updates number ``steps_per_l_step``,
        ``2 * steps_per_l_step`` and so on run the C steps, and theta is up to date after each.
      multipliers: keep multipliers (augmented Lagrangian) or not (quadratic penalty).
      where: which leaves are compressed (jointly); the gradient of the others is left alone.

    Returns:
      A ``GradientTransformation``; ``update`` needs ``params``. Its state adds to each chosen leaf
      a theta of the leaf's dtype and, with multipliers, one of float32 or wider.

    Raises:
      TypeError: a chosen leaf is not floating point; ``mu_schedule`` is an array, as which an
        injected schedule arrives.
      ValueError: ``steps_per_l_step`` or ``steps_in_first_l_step`` is not an integer in its range;
        the schedule is not positive and non-decreasing over its first 100 L steps (a traced one is
        not checked); in ``init``: the parameters hold NaN, one array at two places, or ``where``
        chooses nothing; in ``update``: ``params`` is missing.

    Warns:
      UserWarning: the schedule hardly grows over 100 L steps but does over as many times
        ``steps_per_l_step``, as one that was written for updates does.

    References:
      Carreira-Perpinan and Idelbayev, "Learning-compression" algorithms for neural net pruning,
      CVPR 2018.
    """
    steps = _steps("steps_per_l_step", steps_per_l_step, 1)
    # The first C step is run by the update after the last gradient step of the first L step.
    first = (
        steps
        if steps_in_first_l_step is None
        else _steps("steps_in_first_l_step", steps_in_first_l_step, 0) + 1
    )
    schedule = _schedule(mu_schedule)
    _check_mu_schedule(schedule, steps)

    def mu_at(l_step) -> jax.Array:
        return jnp.array(schedule(l_step), jnp.float32)  # a copy, which a state may keep

    def init(params):
        refuse_tied(params, where)
        weights = mask_out(params, where)
        mu = mu_at(jnp.asarray(0, jnp.int32))
        theta, state = compression.project(weights, mu, compression.init(weights))
        zeros = jax.tree.map(lambda w: jnp.zeros_like(w, at_least_float32(w)), weights)
        return LearningCompressionState(
            l_step=jnp.asarray(0, jnp.int32),
            steps_left=jnp.array(first, jnp.int32),
            mu=mu,
            theta=fresh(theta),
            multipliers=zeros if multipliers else None,
            compression=fresh(state),
        )

    def c_step(weights, state):
        mu = state.mu
        if multipliers:
            shifted = jax.tree.map(
                lambda w, lam: (w.astype(lam.dtype) - lam / mu.astype(lam.dtype)).astype(w.dtype),
                weights, state.multipliers,
            )  # fmt: skip
            theta, inner = compression.project(shifted, mu, state.compression)
            lambdas = jax.tree.map(
                lambda w, t, lam: lam
                - mu.astype(lam.dtype) * (w.astype(lam.dtype) - t.astype(lam.dtype)),
                weights, theta, state.multipliers,
            )  # fmt: skip
        else:
            theta, inner = compression.project(weights, mu, state.compression)
            lambdas = None
        l_step = state.l_step + 1
        return LearningCompressionState(
            l_step=l_step,
            steps_left=jnp.asarray(steps, jnp.int32),
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
            if is_masked(w):
                return gradient
            wide = at_least_float32(w)
            pull = state.mu.astype(wide) * (w.astype(wide) - theta.astype(wide))
            pull = pull if lam is None else pull - lam
            sum_in = promoted(wide, gradient)
            return (gradient.astype(sum_in) + pull.astype(sum_in)).astype(gradient.dtype)

        trees = (weights, state.theta) + ((state.multipliers,) if multipliers else ())
        return _map_leaves(augmented, updates, *trees), state

    return optax.GradientTransformation(init, update)


def compressed_params(opt_state: PyTree, params: PyTree) -> PyTree:
    """Return ``params`` with theta in place of the compressed weights.

    Weights that a `hold_zeros` in the same state holds are zero in the result.

    Args:
      opt_state: any optimizer state with one or more `LearningCompressionState` in it, however
        deeply chained, masked (by a prefix, too) or wrapped; that of a ``flax.nnx.Optimizer``, too.
      params: the parameters that the state belongs to.

    Returns:
      A tree like ``params``: theta where a leaf is compressed, the leaf itself elsewhere.

    Raises:
      ValueError: ``opt_state`` holds no state of `learning_compression`, two of them compress one
        leaf, or they belong to other parameters.
    """
    found = states_in(opt_state, LearningCompressionState)
    if not found:
        raise ValueError("opt_state holds no state of sparsejax.learning_compression")
    thetas: dict[Path, jax.Array] = {}
    for state in found:
        for path, theta in flatten_with_path(state.theta):
            if path in thetas:
                raise ValueError(
                    f"opt_state holds two learning_compressions of the leaf {name(path)}; give "
                    "each leaves of its own by its where"
                )
            thetas[path] = theta
    absent = thetas.keys() - {path for path, _ in flatten_with_path(params)}
    if absent:
        raise ValueError(
            f"params must be like the parameters of opt_state; it has no leaf {names(absent)}"
        )
    masks = held_masks(opt_state)
    held = {path: masks[path] for path in thetas.keys() & masks.keys()}
    return zero_outside(replace_leaves(params, lambda path, w: thetas.get(path, w)), held)


def _map_leaves(function, tree: PyTree, *others: PyTree) -> PyTree:
    """``jax.tree.map`` in which an ``optax.MaskedNode`` counts as a leaf."""
    return jax.tree.map(function, tree, *others, is_leaf=is_masked)


def _steps(name: str, value: Any, least: int) -> Any:
    number = _checks.known(value)
    if number is None:
        return jnp.maximum(value, least)
    whole = number.shape == () and number.dtype.kind in "iuf" and number == np.floor(number)
    if not whole or number < least:
        raise ValueError(f"{name} must be an integer >= {least}; got {value!r}")
    return int(number)


def _schedule(mu_schedule: Any) -> optax.Schedule:
    if callable(mu_schedule):
        return mu_schedule
    if isinstance(mu_schedule, (jax.Array, np.ndarray)):
        raise TypeError(
            "mu_schedule must be a number or a function of the L step; got an array, which "
            "optax.inject_hyperparams makes of a schedule at every update. Name mu_schedule in its "
            "static_args, or pass optax.constant_schedule(mu) for a traced constant mu"
        )
    return optax.constant_schedule(mu_schedule)


def _check_mu_schedule(schedule: optax.Schedule, steps: Any) -> None:
    before = first = np.float64(0)
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
        first = first or before
    if not isinstance(steps, int) or before > 1.01 * first:
        return
    later = float(schedule(_L_STEPS_CHECKED * steps))
    if later > 1.01 * first:
        warnings.warn(
            f"mu_schedule gives {first} at L step 0, {before} at L step {_L_STEPS_CHECKED - 1} and "
            f"{later} at {_L_STEPS_CHECKED * steps}: it seems to be written for updates, but is "
            "read once per L step",
            stacklevel=3,
        )
