"""Learning-compression as a gradient transformation."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float, Float32, Int32, PyTree

from sparsejax import _checks
from sparsejax._dtypes import at_least_float32, promoted
from sparsejax._states import fresh
from sparsejax._where import Where, is_masked, mask_out, refuse_tied
from sparsejax.compression import Compression

_L_STEPS_CHECKED = 100  # the number of L steps for which a mu schedule is checked


class LearningCompressionState(NamedTuple):
    """State of `learning_compression`; trees have ``optax.MaskedNode()`` for leaves not chosen."""

    l_step: Int32[Array, ""]
    """The number of L steps completed."""
    steps_left: Int32[Array, ""]
    """The number of updates left in the current L step."""
    mu: Float32[Array, ""]
    """The penalty's weight in the current L step."""
    theta: PyTree[Float[Array, "..."]]
    """The compressed weights, a tree with the structure of the parameters."""
    multipliers: PyTree[Float[Array, "..."]] | None
    """The multipliers lambda of the constraint w = theta, in float32 or wider; None for the
    quadratic penalty."""
    compression: PyTree[Array]
    """The state of the C step."""


def learning_compression(
    compression: Compression,
    mu_schedule: optax.ScalarOrSchedule,
    steps_per_l_step: int,
    steps_in_first_l_step: int | None = None,
    multipliers: bool = True,
    where: Where = None,
) -> optax.GradientTransformation:
    r"""Train towards compressible weights by alternating L steps and C steps.

    The problem is  min L(w) + P(theta)  s.t.  w = theta. The L step is ordinary training in which
    the gradient of the augmented Lagrangian replaces that of the loss,

    .. math:: \nabla L(w) + \mu(w-\theta) - \lambda,

    and the C step follows at the end of L step n:

    .. math:: \theta \leftarrow \arg\min_\theta \tfrac{\mu_n}{2}\|w-\lambda/\mu_n-\theta\|^2
              + P(\theta), \qquad \lambda \leftarrow \lambda - \mu_n(w-\theta), \qquad
              \mu \leftarrow \mu_{n+1}.

    With ``multipliers=False`` lambda stays 0, which is the quadratic-penalty method. Training
    starts from direct compression: ``init`` runs a C step on the given (trained) parameters.

    Place the transformation first in a chain, so that the optimizer sees the whole gradient.

    The last ``update`` of each L step runs the C step, on the parameters it is given and before it
    forms its gradient. So `compressed_params` is current at the end of an L step. The C step runs
    only then, also under ``vmap``, where members may be at different steps. As a consequence
    ``update`` has no reverse-mode derivative.

    In combination with `hold_zeros` and `prune_when_accurate`, pruned weights remain zero in w and
    in theta. If a chain holds several of these transformations, each needs leaves of its own, which
    ``where`` chooses.

    Args:
      compression: the C step.
      mu_schedule: the weight mu of the penalty for L step ``n = 0, 1, ...``, in units of the loss
        per squared unit of weight: a schedule that is positive and non-decreasing, such as
        ``optax.exponential_decay(9e-5, 1, 1.1)``, or a Python number for a constant. It is read
        once per L step, not per update. ``optax.inject_hyperparams`` reads schedules once per
        update, so name this argument in its ``static_args``, or build the schedule inside the
        injected function.
      steps_per_l_step: the number of updates in an L step, an integer >= 1.
      steps_in_first_l_step: the number of gradient steps before the first C step, an integer >= 0;
        None for ``steps_per_l_step - 1``. With the default, updates ``steps_per_l_step``,
        ``2 * steps_per_l_step`` and so on run the C steps, and theta is current after each.
      multipliers: whether to use multipliers (augmented Lagrangian) or not (quadratic penalty).
      where: the leaves that are compressed together; the gradients of all others are returned
        unchanged.

    Returns:
      A ``GradientTransformation`` whose ``update`` needs ``params``. For each chosen leaf its state
      has a theta in the leaf's dtype and, with multipliers, a lambda in float32 or wider.

    Raises:
      TypeError: ``mu_schedule`` is neither number nor function, or an array, as which an injected
        schedule arrives; in ``init``: a chosen leaf is not floating point.
      ValueError: ``steps_per_l_step`` or ``steps_in_first_l_step`` is not an integer in its range,
        or the schedule is not positive and non-decreasing over its first 100 L steps (a traced one
        is not checked); in ``init``: the parameters hold NaN or one array at several places, or
        ``where`` chooses nothing; in ``update``: ``params`` is missing.

    Warns:
      UserWarning: the schedule grows by less than 1 % over 100 L steps, but by more over
        ``100 * steps_per_l_step``, so it was probably written for updates.

    References:
      Carreira-Perpinan and Idelbayev, "Learning-compression" algorithms for neural net pruning,
      CVPR 2018.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from sparsejax import compressed_params, learning_compression
      >>> from sparsejax.compression import l0_ball
      >>> params = {"kernel": jnp.array([[3.0, 1.0]])}
      >>> optimizer = optax.chain(learning_compression(l0_ball(1), 0.5, 10), optax.sgd(1.0))
      >>> state = optimizer.init(params)
      >>> compressed_params(state, params)["kernel"]
      Array([[3., 0.]], dtype=float32)
      >>> updates, state = optimizer.update({"kernel": jnp.zeros((1, 2))}, state, params)
      >>> optax.apply_updates(params, updates)["kernel"]
      Array([[3. , 0.5]], dtype=float32)
    """
    _checks.compression("compression", compression)
    steps = _steps("steps_per_l_step", steps_per_l_step, 1)
    # The update after the last gradient step of the first L step runs the first C step.
    first = (
        steps
        if steps_in_first_l_step is None
        else _steps("steps_in_first_l_step", steps_in_first_l_step, 0) + 1
    )
    schedule = _schedule(mu_schedule)
    _check_mu_schedule(schedule, steps)

    def mu_at(l_step: jax.Array) -> jax.Array:
        return jnp.array(schedule(l_step), jnp.float32)  # a copy, so that the state may be donated

    def init(params: optax.Params) -> LearningCompressionState:
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

    def c_step(weights: PyTree[Array], state: LearningCompressionState) -> LearningCompressionState:
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

    def update(
        updates: optax.Updates, state: Any, params: optax.Params | None = None
    ) -> tuple[optax.Updates, LearningCompressionState]:
        if params is None:
            raise ValueError(
                "params must be passed to update, since learning_compression needs them"
            )
        weights = mask_out(params, where)
        state = state._replace(steps_left=state.steps_left - 1)
        # A loop of at most one trip, since a C step resets steps_left. `lax.cond` is equivalent,
        # but under vmap it becomes a select that runs the C step at every update.
        state = lax.while_loop(
            lambda state: state.steps_left == 0, lambda state: c_step(weights, state), state
        )

        def augmented(
            gradient: jax.Array, w: Any, theta: jax.Array, lam: jax.Array | None = None
        ) -> jax.Array:
            if is_masked(w):
                return gradient
            wide = at_least_float32(w)
            pull: jax.Array = state.mu.astype(wide) * (w.astype(wide) - theta.astype(wide))
            pull = pull if lam is None else pull - lam
            sum_in = promoted(wide, gradient)
            return (gradient.astype(sum_in) + pull.astype(sum_in)).astype(gradient.dtype)

        trees = (weights, state.theta) + ((state.multipliers,) if multipliers else ())
        return _map_leaves(augmented, updates, *trees), state

    # optax's type of states leaves out None, which `multipliers` may be.
    return optax.GradientTransformation(init, update)  # type: ignore[arg-type]


def _map_leaves(function: Callable[..., Any], tree: PyTree, *others: PyTree) -> PyTree:
    """Call ``jax.tree.map`` with ``optax.MaskedNode`` as a leaf."""
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
        schedule: optax.Schedule = mu_schedule
        return schedule
    if isinstance(mu_schedule, (jax.Array, np.ndarray)):
        raise TypeError(
            "mu_schedule must be a number or a function of the L step; got an array, into which "
            "optax.inject_hyperparams converts a schedule at every update. Name mu_schedule in its "
            "static_args, or pass optax.constant_schedule(mu) for a traced constant mu"
        )
    if not isinstance(mu_schedule, int | float | np.number):
        raise TypeError(
            "mu_schedule must be a number or a function of the L step; got "
            f"{mu_schedule!r} ({type(mu_schedule).__name__})"
        )
    return optax.constant_schedule(mu_schedule)


def _check_mu_schedule(schedule: optax.Schedule, steps: Any) -> None:
    # Outside of jit JAX compiles b ** n anew for every known n.
    at: optax.Schedule = jax.jit(schedule)
    try:
        at(0)
    except TypeError:  # it decides in Python, which an eager loop allows
        at = schedule
    before = first = np.float64(0)
    for n in range(_L_STEPS_CHECKED):
        mu = _checks.known(at(n))
        if mu is None:  # it depends on a traced hyperparameter
            return
        if mu.shape != () or not mu > 0 or not mu >= before:
            raise ValueError(
                "mu_schedule must be positive and non-decreasing over the L steps; it is "
                f"{_shown(mu)} at L step {n}" + (f" after {_shown(before)}" if n else "")
            )
        before = np.float64(mu)
        first = first or before
    if not isinstance(steps, int) or before > 1.01 * first:
        return
    later = float(np.asarray(at(_L_STEPS_CHECKED * steps)))
    if later > 1.01 * first:
        warnings.warn(
            f"mu_schedule is {first} at L step 0, {before} at L step {_L_STEPS_CHECKED - 1} and "
            f"{later} at L step {_L_STEPS_CHECKED * steps}: it seems to be written for updates, "
            "but it is read once per L step",
            stacklevel=3,
        )


def _shown(mu: Any) -> Any:
    """Return a value of mu as it is read in float32: 0.9, not 0.8999999761581421."""
    return mu if np.ndim(mu) else str(np.float32(mu))
