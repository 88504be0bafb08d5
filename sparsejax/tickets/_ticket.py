"""What a search finds: which weights stay, their scale, and the values they are trained from."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from chex import Numeric
from jax.tree_util import Partial

from sparsejax._dtypes import at_least_float32
from sparsejax._masks import apply_mask, map_searched
from sparsejax._pairs import pairs, same_shapes
from sparsejax._states import fresh
from sparsejax._where import PyTree
from sparsejax.tickets._mask import times


class Ticket(NamedTuple):
    r"""A subnetwork and the weights to rewind it to.

    Its network computes with

    .. math:: c\, m \odot w

    on the leaves that were searched (mask m, scale c) and with the weights w alone on the others.
    An optimizer trains w: the scale stays outside of the weights. `rewind` gives both halves,
    `effective_params` is the equation, `fold_scale` multiplies the scale into the weights.
    """

    mask: PyTree
    """Like the parameters: booleans, True for the weights that stay, ``optax.MaskedNode()`` for
    leaves that were not searched; for ``sparsejax.hold_zeros``."""
    params: PyTree
    """The weights w of the whole network to rewind to."""
    scale: Numeric = 1.0
    """A positive scalar c of float32 or wider: 1 for magnitude pruning, 1 / sigma(s_0) for
    continuous sparsification. In the tickets of a population: [members]."""
    statistics: PyTree = None
    """The running statistics of the network at the step of ``params``; None for a network without.
    """


def effective_params(ticket: Ticket, params: PyTree) -> PyTree:
    r"""The parameters that a ticket's network computes with, :math:`c\, m \odot w`.

    Args:
      ticket: gives the mask m and the scale c; its own weights are not read.
      params: w, trained from ``ticket.params``.

    Returns:
      A tree like ``params``, each leaf in its dtype. Leaves that were not searched are returned as
      they are. A gradient reaches only the weights that stay.

    Raises:
      ValueError: ``ticket.mask`` has not the structure of ``params`` or the shape of a leaf.
    """
    return _effective(ticket.mask, ticket.scale, params)


def _effective(mask: PyTree, scale: Numeric, params: PyTree) -> PyTree:
    def seen(leaf, m):
        return jnp.where(m, times(leaf, jnp.asarray(scale)), jnp.zeros_like(leaf))

    return map_searched(seen, params, mask)


def rewind(ticket: Ticket) -> tuple[PyTree, Callable[[PyTree], PyTree]]:
    r"""What is trained when a ticket is trained, and the function from it to what the network sees.

    The two are returned together since weights without the ticket's scale are another network::

        params, effective = rewind(ticket)
        optimizer = optax.chain(optax.sgd(0.1, momentum=0.9), hold_zeros(ticket.mask))
        grads = jax.grad(lambda params: loss(effective(params), batch))(params)

    In a population, ``jax.vmap(rewind)`` gives them with an axis of members.

    Returns:
      ``(params, effective)``: the weights :math:`m \odot w` without the scale, as arrays of their
      own that may be donated; and `effective_params` of this ticket as a pytree that can be called
      (``jax.tree_util.Partial``), which holds a copy of the mask and the scale.
    """
    params = fresh(apply_mask(ticket.params, ticket.mask))
    return params, Partial(_effective, *fresh((ticket.mask, ticket.scale)))


def fold_scale(ticket: Ticket) -> Ticket:
    r"""The same subnetwork with its scale multiplied into the weights: :math:`w \leftarrow c\,w`.

    It computes the same function with a scale of 1. But it trains otherwise: of plain SGD, a step
    of the same learning rate moves the effective weights :math:`c^2` times less far than with the
    scale outside, and under batch normalisation the length of the weights sets the effective
    learning rate.

    Returns:
      A ticket of scale 1, whose arrays are its own.
    """
    folded = map_searched(
        lambda leaf, m: times(leaf, jnp.asarray(ticket.scale)), ticket.params, ticket.mask
    )
    one = jnp.ones_like(jnp.asarray(ticket.scale))
    return fresh(ticket._replace(params=folded, scale=one))


def check_ticket(ticket: Ticket, params: PyTree) -> None:
    """Whether a ticket is one of a network. Runs on the host.

    Args:
      ticket: such as one from a file.
      params: of the network it is to be used in; shapes count alone.

    Raises:
      ValueError: the mask or the weights have not the structure or a shape of ``params``; the scale
        is not a positive finite scalar.

    Warns:
      RuntimeWarning: the mask empties a layer, which is named: nothing gets through it.
    """
    masks = pairs("ticket.mask", ticket.mask, params)
    masks = [found for found in masks if not isinstance(found[2], optax.MaskedNode)]
    same_shapes("ticket.mask", masks)
    same_shapes("ticket.params", pairs("ticket.params", ticket.params, params))
    if jnp.shape(ticket.scale) != ():
        raise ValueError(
            "ticket.scale must be a positive finite scalar; got an array of shape "
            f"{jnp.shape(ticket.scale)}"
        )
    if not 0 < float(ticket.scale) < math.inf:
        raise ValueError(f"ticket.scale must be a positive finite scalar; got {ticket.scale}")
    for path, _, mask in masks:
        if not np.any(mask):
            warnings.warn(
                f"the mask empties {path or 'its leaf'}: no weight of it is left, so nothing gets "
                "through",
                RuntimeWarning,
                stacklevel=2,
            )


def scale_of(scale: Numeric) -> jax.Array:
    """A scale as an array of float32 or wider."""
    return jnp.asarray(scale, at_least_float32(scale))
