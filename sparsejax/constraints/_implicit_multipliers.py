"""Multipliers that a model computes from the features of their constraints."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, PyTree

from sparsejax._dtypes import at_least_float32
from sparsejax._extra_args import accepting_extra_args

Model = Callable[[PyTree[Array], PyTree[Array]], Float[Array, "batch ..."]]


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["features", "values"],
    meta_fields=["model", "equality"],
)
@dataclasses.dataclass(frozen=True)
class Implicit:
    """Violations of constraints whose multipliers are the outputs of a model."""

    model: Model
    """``(phi, features) -> f``, an array of the shape of ``values``: a plain function, or the
    ``apply`` of a network. It is part of the compiled program, so define it once."""
    features: PyTree[Array]
    """What the model sees of each constraint."""
    values: Float[Array, "batch ..."]
    """The violation of each constraint."""
    equality: bool = False
    """Whether the constraints are  g(x) = 0 ; their multipliers may have either sign."""

    def multipliers(self, phi: PyTree[Array]) -> Float[Array, "batch ..."]:
        """Return max(0, f(features; phi)), or f itself for equality constraints.

        Args:
          phi: the parameters of the model.

        Returns:
          An array of the shape of ``values``. The gradient of the Lagrangian with respect to x
          does not flow through it, even if the features depend on x.

        Raises:
          TypeError: the model does not return an array of floating-point numbers.
          ValueError: its shape is not that of ``values``.
        """
        output = lax.stop_gradient(self.output(phi))
        return output if self.equality else jnp.maximum(output, 0)

    def output(self, phi: PyTree[Array]) -> Float[Array, "batch ..."]:
        """Return f(features; phi) after checking its dtype and shape."""
        output = self.model(phi, self.features)
        dtype = getattr(output, "dtype", None)
        if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
            got = type(output).__name__ if dtype is None else f"an array of dtype {dtype}"
            raise TypeError(f"model must return an array of floating-point numbers; got {got}")
        if output.shape != jnp.shape(self.values):
            raise ValueError(
                "model must return one number for each violation; it returned the shape "
                f"{output.shape}, the violations have shape {jnp.shape(self.values)}"
            )
        return output


def implicit_multipliers(
    optimizer: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    r"""Train a model that maps the features of a constraint to its multiplier.

    .. math:: \lambda_i = \max(0,\; f(z_i; \phi)), \qquad
              \phi \leftarrow \operatorname{optimizer}\Bigl(\phi,\;
              -\sum_{i \,:\, \lambda_i > 0 \text{ or } g_i(x) > 0}
              g_i(x)\, \nabla_\phi f(z_i; \phi)\Bigr)

    This is for constraints of which there are too many to keep one multiplier each, or of which
    each batch shows new ones, such as one for each example. Constraints with similar features share
    what is learnt. The parameters phi take the place of the multipliers in `descent_ascent`, and
    the constraint returns `Implicit` violations::

        def model(phi, features):
            return features @ phi

        def constraint(params, batch, key):
            return Implicit(model, batch["features"], excess(params, batch))

        dual = implicit_multipliers(optax.adam(1e-3))
        optimizer = descent_ascent(optax.adam(1e-3), dual, multipliers=jnp.zeros(16))

    The optimizer minimises the negative of :math:`\sum_i \lambda_i\, g_i(x)`, so that phi ascends.
    A term of an inequality counts while its multiplier is positive or its constraint is violated:
    the derivative of the maximum alone would never raise a multiplier that is 0. The model's output
    may fall below 0 by one step. With one-hot features and
    ``optax.chain(optax.sgd(eta), optax.keep_params_nonnegative())`` it does not, and where no
    constraint occurs twice in a batch the multipliers are those of
    ``indexed(dual_ascent(eta, restarts=False))``, which takes the mean of such violations, not the
    sum.

    The sum is over the constraints of a batch, like the sum in `lagrangian`. Where other
    constraints have explicit multipliers, give each kind its optimizer by ``optax.partition``.

    Args:
      optimizer: any optax optimizer, for the parameters of the model.

    Returns:
      A ``GradientTransformationExtraArgs``, the dual optimizer of `descent_ascent`. The ``updates``
      of its ``update`` are `Implicit` violations: one alone, or a tree with one in the place of
      each model; ``params`` are phi: a pytree, or a tree with one in each of these places.

    Raises:
      TypeError: in ``update``: ``updates`` hold something else, or the model does not return
        floating-point numbers.
      ValueError: in ``update``: ``params`` is missing or has another structure, or the model
        returns another shape than that of the violations.

    References:
      Narasimhan, Cotter, Zhou, Wang and Guo, Approximate heavily-constrained learning with Lagrange
      multiplier models, NeurIPS 2020.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from sparsejax.constraints import Implicit, implicit_multipliers
      >>> dual = implicit_multipliers(optax.sgd(0.5))
      >>> phi = jnp.zeros(2)
      >>> features = jnp.array([[1.0, 0.0], [1.0, 2.0]])
      >>> seen = Implicit(lambda phi, z: z @ phi, features, values=jnp.array([1.0, -1.0]))
      >>> updates, state = dual.update(seen, dual.init(phi), phi)
      >>> phi = optax.apply_updates(phi, updates)
      >>> print(phi, seen.multipliers(phi))
      [0.5 0. ] [0.5 0.5]
    """
    inner = accepting_extra_args(optimizer)

    def update(
        updates: optax.Updates, state: Any, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, Any]:
        if params is None:
            raise ValueError("params (the parameters of the model) must be passed to update")
        found, structure = jax.tree.flatten(updates, is_leaf=is_implicit)
        places: Any = structure
        for violation in found:
            if not is_implicit(violation):
                raise TypeError(
                    "updates must be Implicit violations for implicit_multipliers; got "
                    f"{type(violation).__name__}"
                )
        try:
            phis = places.flatten_up_to(params)
        except ValueError as error:
            raise ValueError(
                "params must have the parameters of a model in the place of each Implicit; the "
                f"structure of the violations is {places}, that of params is "
                f"{jax.tree.structure(params)}"
            ) from error
        descent = places.unflatten(map(_negative_gradient, found, phis))
        if "grad" in extra:
            extra["grad"] = descent
        moves: tuple[optax.Updates, Any] = inner.update(descent, state, params, **extra)
        return moves

    return optax.GradientTransformationExtraArgs(inner.init, update)


def is_implicit(node: Any) -> bool:
    """Whether a node holds violations of constraints with a model."""
    return isinstance(node, Implicit)


def _negative_gradient(violation: Implicit, phi: PyTree[Array]) -> PyTree[Array]:
    output, pull_back = jax.vjp(violation.output, phi)
    g = jnp.asarray(violation.values, at_least_float32(violation.values))
    if not violation.equality:
        # A violation that is not a number counts, so that it is noticed.
        g = jnp.where((output > 0) | ~(g <= 0), g, 0)
    gradient: PyTree[Array] = pull_back((-g).astype(output.dtype))[0]
    return gradient
