"""Straight-through estimation: forward with projected weights, gradients for the dense ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from sparsejax import _checks
from sparsejax._dtypes import at_least_float32
from sparsejax._misfit import misfit

Projection = Callable[[PyTree[Array]], PyTree[Array]]


def straight_through(projection: Projection) -> Projection:
    r"""Return a projection whose derivative is that of the identity.

    .. math:: \theta = \Pi(w), \qquad \frac{\partial \theta}{\partial w} := I

    Compute the loss of ``straight_through(projection)(params)`` and update ``params``, which stay
    dense: the network sees the projected weights, bit for bit, and its gradient with respect to
    them moves the dense ones. Any projection will do: a count or a sparsity (`project_sparsity`),
    n:m (``project_n_m``), or quantisation (``project_k_means``, ``project_ternary``).

    Args:
      projection: ``params -> params``, which keeps structure, shapes and dtypes. It may use traced
        values, such as a count from a schedule, but nothing that is differentiated.

    Returns:
      A function ``params -> params``, differentiable in both modes.

    Raises:
      TypeError: ``projection`` is not callable; in a call: it changes the dtype of a leaf.
      ValueError: in a call: it changes the structure of the parameters or the shape of a leaf.

    References:
      Bengio, Leonard and Courville, Estimating or propagating gradients through stochastic neurons
      for conditional computation, arXiv:1308.3432, 2013.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from sparsejax.projections import project_n_m
      >>> from sparsejax.transforms import straight_through
      >>> forward = straight_through(lambda params: project_n_m(params, 1, 2))
      >>> params = {"kernel": jnp.array([[3.0], [-1.0]])}
      >>> print(forward(params)["kernel"].T)
      [[3. 0.]]
      >>> print(jax.grad(lambda p: (2 * forward(p)["kernel"]).sum())(params)["kernel"].T)
      [[2. 2.]]
    """
    if not callable(projection):
        raise TypeError(f"projection must be a function of the parameters; got {projection!r}")

    @jax.custom_jvp
    def forward(params: PyTree[Array]) -> PyTree[Array]:
        found = projection(params)
        _check_like(found, params)
        return found

    @forward.defjvp
    def derivative(primals: Any, tangents: Any) -> tuple[PyTree[Array], PyTree[Array]]:
        return forward(*primals), tangents[0]

    def projected(params: PyTree[Array]) -> PyTree[Array]:
        return forward(params)

    return projected


def _check_like(found: PyTree[Array], params: PyTree[Array]) -> None:
    structures: list[Any] = [jax.tree.structure(tree) for tree in (found, params)]
    if structures[0] != structures[1]:
        raise ValueError(
            "projection must keep the structure of the parameters; what it returns differs: "
            f"{misfit(found, params, 'params')}"
        )
    flat, _ = jax.tree_util.tree_flatten_with_path(params)
    for (path, leaf), new in zip(flat, jax.tree.leaves(found), strict=True):
        name = jax.tree_util.keystr(path) or "its leaf"
        if jnp.shape(new) != jnp.shape(leaf):
            raise ValueError(
                f"projection must keep the shapes of the parameters; {name} has shape "
                f"{jnp.shape(leaf)}, it returns {jnp.shape(new)}"
            )
        if jnp.result_type(new) != jnp.result_type(leaf):
            raise TypeError(
                f"projection must keep the dtypes of the parameters; {name} has dtype "
                f"{jnp.result_type(leaf)}, it returns {jnp.result_type(new)}"
            )


def straight_through_decay(
    projection: Projection, decay: Float[Any, ""]
) -> optax.GradientTransformation:
    r"""Pull dense weights towards their projection, as SR-STE does for n:m sparsity.

    .. math:: g \leftarrow g + \lambda (w - \Pi(w))

    For a projection that keeps or zeroes weights the pull is weight decay of the zeroed ones, so
    that the choice of the mask settles. Place it first in a chain.

    Args:
      projection: ``params -> params``, the one of `straight_through`.
      decay: lambda, a scalar ``>= 0`` in units of the loss per squared unit of weight, 2e-4 in the
        paper; may be traced.

    Returns:
      A ``GradientTransformation`` whose ``update`` needs ``params``; it has no state. The
      arithmetic uses float32 or wider, and the updates have the dtypes of the gradients.

    Raises:
      TypeError: ``projection`` is not callable, or ``decay`` is not a number.
      ValueError: ``decay`` is negative, NaN or not a scalar; in ``update``: ``params`` is missing.

    References:
      Zhou et al., Learning N:M fine-grained structured sparse neural networks from scratch, ICLR
      2021.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from sparsejax.projections import project_n_m
      >>> from sparsejax.transforms import straight_through_decay
      >>> project = lambda params: project_n_m(params, 1, 2)
      >>> optimizer = optax.chain(straight_through_decay(project, 0.5), optax.sgd(1.0))
      >>> params = {"kernel": jnp.array([[3.0], [-1.0]])}
      >>> zero = {"kernel": jnp.zeros((2, 1))}
      >>> updates, _ = optimizer.update(zero, optimizer.init(params), params)
      >>> print(optax.apply_updates(params, updates)["kernel"].T)
      [[ 3.  -0.5]]
    """
    if not callable(projection):
        raise TypeError(f"projection must be a function of the parameters; got {projection!r}")
    strength = _checks.scalar_at_least_zero("decay", decay)

    def pulled(updates: optax.Updates, params: optax.Params | None) -> optax.Updates:
        if params is None:
            raise ValueError(
                "params must be passed to update, since straight_through_decay needs them"
            )

        def add(g: jax.Array, w: jax.Array, theta: jax.Array) -> jax.Array:
            wide = at_least_float32(g, w)
            pull = strength.astype(wide) * (w.astype(wide) - theta.astype(wide))
            return (g.astype(wide) + pull).astype(g.dtype)

        found: optax.Updates = jax.tree.map(add, updates, params, projection(params))
        return found

    return optax.stateless(pulled)
