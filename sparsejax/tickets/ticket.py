"""What a search finds: which weights stay, and the values they are trained from."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sparsejax._pairs import pairs, same_shapes
from sparsejax._where import PyTree, Where, mask_out, under_mask


class Ticket(NamedTuple):
    """A subnetwork and where to rewind it to."""

    mask: PyTree
    """Like the parameters: booleans, True for the weights that stay, ``optax.MaskedNode()`` for
    leaves that were not searched; for ``sparsejax.hold_zeros``."""
    params: PyTree
    """The weights of the whole network to rewind to."""


def whole_mask(params: PyTree, where: Where = None) -> PyTree:
    """The mask under which everything stays.

    Args:
      params: of the network.
      where: which leaves are searched; the others become ``optax.MaskedNode()``.

    Raises:
      TypeError, ValueError: a chosen leaf is not floating point; ``where`` chooses nothing.
    """
    return jax.tree.map(lambda leaf: jnp.ones_like(leaf, bool), mask_out(params, where))


def masked(params: PyTree, mask: PyTree) -> PyTree:
    r"""The parameters under a mask, :math:`w \odot m`: a gradient reaches what stays alone.

    Raises:
      ValueError: the mask has not the structure of ``params``.
    """
    return under_mask(params, mask)


def rewound(ticket: Ticket) -> PyTree:
    """The parameters from which a ticket is trained.

    Hold its zeros with ``hold_zeros``::

    params = rewound(ticket)
    optimizer = optax.chain(optax.sgd(0.1, momentum=0.9), hold_zeros(ticket.mask))
    """
    return masked(ticket.params, ticket.mask)


def remaining(mask: PyTree) -> jax.Array:
    """How many weights a mask lets stay, over all of its leaves together; an int32 scalar."""
    return jnp.asarray(sum(m.sum() for m in jax.tree.leaves(mask)), jnp.int32)


def overlap(first: PyTree, second: PyTree) -> jax.Array:
    r"""How alike two masks are, :math:`|A \cap B| / |A \cup B|`; 1 where both are empty."""
    both = remaining(jax.tree.map(jnp.logical_and, first, second))
    either = remaining(jax.tree.map(jnp.logical_or, first, second))
    return jnp.where(either == 0, 1.0, both / jnp.maximum(either, 1))


def check_ticket(ticket: Ticket, params: PyTree) -> None:
    """Whether a ticket is one of a network. Runs on the host.

    Args:
      ticket: such as one from a file.
      params: of the network it is to be used in; shapes count alone.

    Raises:
      ValueError: the mask or the weights have not the structure or a shape of ``params``.

    Warns:
      RuntimeWarning: the mask empties a layer, which is named: nothing gets through it.
    """
    masks = pairs("ticket.mask", ticket.mask, params)
    masks = [found for found in masks if not isinstance(found[2], optax.MaskedNode)]
    same_shapes("ticket.mask", masks)
    same_shapes("ticket.params", pairs("ticket.params", ticket.params, params))
    for path, _, mask in masks:
        if not np.any(mask):
            warnings.warn(
                f"the mask empties {path or 'its leaf'}: no weight of it is left, so nothing gets "
                "through",
                RuntimeWarning,
                stacklevel=2,
            )
