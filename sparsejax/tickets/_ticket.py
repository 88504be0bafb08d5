"""Tickets: a mask, its scale, and the weights from which the subnetwork is trained."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Bool, Float, PyTree

from sparsejax._dtypes import at_least_float32
from sparsejax._masks import apply_mask, map_searched
from sparsejax._pairs import pairs, same_shapes
from sparsejax._states import fresh
from sparsejax._where import is_masked
from sparsejax.tickets._mask import times


class Ticket(NamedTuple):
    r"""A subnetwork and the weights to rewind it to.

    Its network computes with

    .. math:: c\, m \odot w

    on the leaves that were searched (mask m, scale c) and with the weights w on all others. An
    optimizer trains w, so the scale stays outside of the weights. `rewind` returns both parts,
    `effective_params` is the equation, and `fold_scale` multiplies the scale into the weights.

    Attributes:
      mask: pytree of boolean arrays like the parameters, True for the weights that are kept, with
        ``optax.MaskedNode()`` at leaves that were not searched; fits `sparsejax.hold_zeros`.
      params: pytree of arrays, the weights w of the whole network to rewind to.
      scale: c, a positive scalar of float32 or wider: 1 for magnitude pruning, 1 / sigma(s_0) for
        continuous sparsification. In the tickets of a population: [members].
      statistics: running statistics of the network at the step of ``params``, such as those of
        batch normalisation; None if it has none.
    """

    mask: PyTree[Bool[Array, "..."]]
    params: PyTree[Array]
    scale: Float[ArrayLike, "*members"] = 1.0
    statistics: PyTree[Array] | None = None


def effective_params(ticket: Ticket, params: PyTree[Array]) -> PyTree[Array]:
    r"""Return the parameters with which the network of a ticket computes.

    .. math:: c\, m \odot w

    Args:
      ticket: the ticket, of which the mask m and the scale c are read, and not the weights.
      params: pytree of arrays, w, trained from ``ticket.params``.

    Returns:
      A tree like ``params``, each leaf in its dtype. Leaves that were not searched are returned
      unchanged. Gradients flow only to weights that are kept.

    Raises:
      TypeError: ``ticket`` is no `Ticket`.
      ValueError: ``ticket.mask`` does not have the structure of ``params`` or the shape of a leaf.

    Example:
      >>> import jax.numpy as jnp
      >>> from sparsejax.tickets import Ticket, effective_params
      >>> ticket = Ticket(jnp.array([True, False]), jnp.array([1.0, 1.0]), scale=2.0)
      >>> print(effective_params(ticket, jnp.array([3.0, 4.0])))
      [6. 0.]
    """
    _check_type(ticket)
    return _effective(ticket.mask, ticket.scale, params)


def _effective(
    mask: PyTree[Bool[Array, "..."]], scale: Float[ArrayLike, ""], params: PyTree[Array]
) -> PyTree[Array]:
    def masked(leaf: Array, m: Array) -> Array:
        return jnp.where(m, times(leaf, jnp.asarray(scale)), jnp.zeros_like(leaf))

    return map_searched(masked, params, mask)


def rewind(ticket: Ticket) -> tuple[PyTree[Array], Callable[[PyTree[Array]], PyTree[Array]]]:
    r"""Return the weights from which a ticket is trained, and the function that applies its mask.

    .. math:: w_0 = m \odot w, \qquad w \mapsto c\, m \odot w

    Both are returned together, since the weights without the ticket's scale are a different
    network::

        params, effective = rewind(ticket)
        optimizer = optax.chain(optax.sgd(0.1, momentum=0.9), hold_zeros(ticket.mask))
        grads = jax.grad(lambda params: loss(effective(params), batch))(params)

    For a population use ``jax.vmap(rewind)``.

    Args:
      ticket: the ticket.

    Returns:
      ``(params, effective)``: the masked weights :math:`m \odot w` without the scale, in buffers of
      their own that may be donated; and `effective_params` of this ticket as a
      ``jax.tree_util.Partial``, a callable pytree that holds copies of the mask and the scale.

    Raises:
      TypeError: ``ticket`` is no `Ticket`.

    Example:
      >>> import jax.numpy as jnp
      >>> from sparsejax.tickets import Ticket, rewind
      >>> params, effective = rewind(Ticket(jnp.array([True, False]), jnp.array([3.0, 4.0]), 2.0))
      >>> print(params, effective(params))
      [3. 0.] [6. 0.]
    """
    _check_type(ticket)
    params = fresh(apply_mask(ticket.params, ticket.mask))
    return params, Partial(_effective, *fresh((ticket.mask, ticket.scale)))


def fold_scale(ticket: Ticket) -> Ticket:
    r"""Return the same subnetwork with its scale multiplied into the weights.

    .. math:: w \leftarrow c\,w, \qquad c \leftarrow 1

    The function of the network does not change, but its training does: with plain SGD of the same
    learning rate, a step moves the effective weights :math:`c^2` times less than with the scale
    outside of the weights, and under batch normalisation the norm of the weights sets the effective
    learning rate.

    Args:
      ticket: the ticket.

    Returns:
      A ticket of scale 1 with buffers of its own.

    Raises:
      TypeError: ``ticket`` is no `Ticket`.

    Example:
      >>> import jax.numpy as jnp
      >>> from sparsejax.tickets import Ticket, fold_scale
      >>> ticket = fold_scale(Ticket(jnp.array([True, True]), jnp.array([3.0, 4.0]), scale=2.0))
      >>> print(ticket.params, ticket.scale)
      [6. 8.] 1.0
    """
    _check_type(ticket)
    folded = map_searched(
        lambda leaf, m: times(leaf, jnp.asarray(ticket.scale)), ticket.params, ticket.mask
    )
    one = jnp.ones_like(jnp.asarray(ticket.scale))
    result: Ticket = fresh(ticket._replace(params=folded, scale=one))
    return result


def check_ticket(ticket: Ticket, params: PyTree[Array]) -> None:
    """Check, on the host, that a ticket fits a network.

    Args:
      ticket: the ticket, for example loaded from a file.
      params: pytree of arrays or ``jax.ShapeDtypeStruct``, the parameters of the network; only
        shapes are read.

    Raises:
      TypeError: ``ticket`` is no `Ticket`.
      ValueError: the mask or the weights do not have the structure or a shape of ``params``, or the
        scale is not a positive finite scalar.

    Warns:
      RuntimeWarning: the mask removes all weights of a layer, which the warning names.

    Example:
      >>> import jax.numpy as jnp
      >>> from sparsejax.tickets import Ticket, check_ticket
      >>> params = jnp.array([3.0, 4.0])
      >>> check_ticket(Ticket(jnp.array([True, False]), params), params)
    """
    _check_type(ticket)
    masks = pairs("ticket.mask", ticket.mask, params)
    masks = [found for found in masks if not is_masked(found[2])]
    same_shapes("ticket.mask", masks)
    same_shapes("ticket.params", pairs("ticket.params", ticket.params, params))
    scale = np.asarray(ticket.scale)
    if scale.shape != ():
        raise ValueError(
            f"ticket.scale must be a positive finite scalar; got an array of shape {scale.shape}"
        )
    if not 0 < float(scale) < math.inf:
        raise ValueError(f"ticket.scale must be a positive finite scalar; got {ticket.scale}")
    for path, _, mask in masks:
        if not np.any(mask):
            warnings.warn(
                f"the mask empties {path or 'its leaf'}, so no signal passes through it",
                RuntimeWarning,
                stacklevel=2,
            )


def _check_type(ticket: Any) -> None:
    if not isinstance(ticket, Ticket):
        raise TypeError(
            "ticket must be a Ticket, as found_ticket returns it; got " + type(ticket).__name__
        )


def scale_of(scale: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
    """``scale`` as an array of float32 or wider."""
    return jnp.asarray(scale, at_least_float32(scale))
