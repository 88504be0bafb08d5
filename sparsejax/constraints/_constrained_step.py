"""One step of training under constraints."""

from __future__ import annotations

import typing
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import PyTree

from sparsejax._extra_args import accepting_extra_args
from sparsejax._step import LossFunction, Metrics, call_loss, gradient_step
from sparsejax._train_state import TrainState
from sparsejax.constraints._descent_ascent import current_multipliers
from sparsejax.constraints._lagrangian import lagrangian as plain_lagrangian
from sparsejax.constraints._shown_terms import computed_multipliers, shown_terms

Batch = Any
Constraint = Callable[[PyTree, Batch, jax.Array], PyTree]
Lagrangian = Callable[[jax.Array, PyTree, PyTree], jax.Array]
Scheme: TypeAlias = Literal["simultaneous", "dual_first", "primal_first", "extrapolation"]


def constrained_step(
    loss: LossFunction,
    constraint: Constraint,
    optimizer: optax.GradientTransformation,
    lagrangian: Lagrangian = plain_lagrangian,
    scheme: Scheme = "simultaneous",
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    r"""Build one descent-ascent step as a pure function that is not jitted yet.

    .. math:: \min_x \max_{\lambda \ge 0} \; f(x) + \lambda^\top g(x)

    The step trains anything with differentiable constraints, in the way of
    ``sparsejax.training.make_step``, whose state it takes and returns::

        optimizer = descent_ascent(optax.adam(7e-4), dual_ascent(1e-3))
        constraint = lambda params, batch, key: density_violation(activity(params), 0.33)
        step = constrained_step(loss, constraint, optimizer)
        state = training.init_state(params, optimizer, key)
        state = training.fit(step, state, training.Batches(data, 128), steps=93_800)

    The optimizer gets the extra arguments of optax's protocol, for the function that it descends:
    ``value`` is the Lagrangian at the present multipliers, ``grad`` its gradient in the parameters,
    and ``value_fn`` computes it at other parameters, with the same multipliers, batch and key. So
    line searches and ``optax.contrib.reduce_on_plateau`` work in the primal optimizer; the latter
    sees the Lagrangian, not the loss. With ``"extrapolation"`` the gradient is that of another
    point, so line searches find no function that fits it there: use another scheme with them.

    Where the quantity to constrain is not differentiable (an error rate, say), give its value the
    gradient of a surrogate by `with_surrogate`. Where a batch shows some of many constraints,
    return `Indexed` violations, for an `indexed` dual optimizer, or `Implicit` violations, for
    `implicit_multipliers`.

    Args:
      loss: ``(params, batch, key) -> (loss, metrics)``, where ``metrics`` are scalars by name. If
        the state has ``statistics``: ``(params, statistics, batch, key) -> (loss, (metrics,
        statistics))``.
      constraint: ``(params, batch, key) -> violations``, a pytree of arrays with the structure and
        shapes of the multipliers, <= 0 where a constraint is satisfied. It gets the loss's key, so
        both can see the same random gates; what both compute, the compiler computes once.
      optimizer: a `descent_ascent`, alone or in an ``optax.chain``.
      lagrangian: ``(loss, violation, multiplier) -> scalar``, e.g. ``functools.partial(
        augmented_lagrangian, penalty=10.0)``. It gets the violations as ``constraint`` returns
        them, and the multipliers of all constraints.
      scheme: what the two sides see of one another:

        - ``"simultaneous"``: both move from the same point.
        - ``"dual_first"``: the multipliers move, and the parameters move with the new ones. Loss
          and constraints are evaluated once.
        - ``"primal_first"``: the parameters move, and the multipliers move by the violations at the
          new ones, which costs one more evaluation of the constraints.
        - ``"extrapolation"``: both take a step to a point ahead, and from where they were they move
          by the gradients there (extragradient), at twice the cost. It converges where simultaneous
          steps circle around a saddle point.

    Returns:
      ``(state, batch) -> (state, metrics)``. The state is a ``sparsejax.training.TrainState``; step
      t uses ``jax.random.fold_in(key, t)``. ``metrics`` gains ``loss`` (f alone), ``lagrangian``,
      and for each constraint, before the step, ``violation`` and ``multiplier`` (with
      ``"dual_first"`` the new one, with which the parameters move): followed by the path of a leaf,
      as in ``violation/dense1``, where they are trees, and the largest where a leaf holds several.

    Raises:
      ValueError: ``scheme`` is none of these.

    References:
      Gallego-Posada et al., NeurIPS 2022; Korpelevich, The extragradient method for finding saddle
      points and other problems, Matecon 12 (1976); Sohrabi et al., ICML 2024 (alternating updates).
    """
    if scheme not in typing.get_args(Scheme):
        raise ValueError(
            f"scheme must be one of {', '.join(map(repr, typing.get_args(Scheme)))}; got {scheme!r}"
        )
    extra_args_optimizer = accepting_extra_args(optimizer)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(state.key, state.step)

        def taken(
            multiplier: PyTree, ahead: PyTree = None, violation: PyTree = None
        ) -> tuple[TrainState, jax.Array, Any]:
            """Take a step from ``state``, with gradients at a point ahead if there is one."""

            def evaluate(params: PyTree) -> tuple[jax.Array, Any]:
                value, metrics, statistics = call_loss(loss, params, state.statistics, batch, key)
                g = constraint(params, batch, key)
                total = lagrangian(value, g, multiplier)
                return total, (value, g, metrics, statistics)

            def objective(params: PyTree) -> tuple[jax.Array, Any]:
                if ahead is None:
                    return evaluate(params)
                # The values ahead, differentiated as if they were those of ``params``.
                zeros = jax.tree.map(lambda x: x - lax.stop_gradient(x), params)
                return evaluate(jax.tree.map(jnp.add, ahead, zeros))

            def value_fn(params: PyTree, violation: PyTree = None) -> jax.Array:
                # A line search outside of `descent_ascent` refuses an extra argument that the
                # function which it evaluates does not name; this one varies with the parameters.
                del violation
                return evaluate(params)[0]

            return gradient_step(
                objective,
                extra_args_optimizer,
                state,
                extra_args=lambda aux: {"violation": aux[1] if violation is None else violation},
                value_fn=value_fn,
            )

        # Each scheme takes the step again from the same state with what it saw ahead. Of the first
        # attempt only that is used, and the compiler leaves the rest out.
        multiplier = current_multipliers(state.opt_state)
        new, total, aux = first = taken(multiplier)
        if scheme == "dual_first":
            multiplier = current_multipliers(new.opt_state)
            new, total, aux = first = taken(multiplier)
        elif scheme == "primal_first":
            new, _, _ = taken(multiplier, violation=constraint(new.params, batch, key))
        elif scheme == "extrapolation":
            new, _, aux = taken(current_multipliers(new.opt_state), ahead=new.params)
        value, violation, metrics, _ = first[2]
        return new._replace(statistics=aux[3]), {
            "loss": value,
            "lagrangian": total,
            **_largest("violation", shown_terms(violation, multiplier)[0]),
            **_largest("multiplier", computed_multipliers(violation, multiplier)),
            **metrics,
        }

    return step


def _largest(name: str, tree: PyTree) -> Metrics:
    """The largest entry of each leaf, by ``name`` and the leaf's path."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    paths = ["/".join([name, *(_simple(entry) for entry in path)]) for path, _ in flat]
    return {path: jnp.max(leaf) for path, (_, leaf) in zip(paths, flat, strict=True)}


def _simple(entry: Any) -> str:
    return jax.tree_util.keystr((entry,), simple=True)
