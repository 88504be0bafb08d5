"""Training under a mask that does not change."""

from __future__ import annotations

import math

import jax.numpy as jnp
from chex import Numeric

from sparsejax import _checks
from sparsejax._where import PyTree
from sparsejax.tickets._method import Method
from sparsejax.tickets._ticket import Ticket, effective_params


def fixed_mask(mask: PyTree, scale: Numeric = 1.0) -> Method:
    r"""Train a ticket: a way of "searching" whose mask stays as it is.

    .. math:: \min_w\ L(c\, m \odot w)

    So a ticket is trained by the same step and loop as a search, with its scale outside of the
    weights (see `Ticket`)::

        method = fixed_mask(ticket.mask, ticket.scale)
        state = init_search(method, ticket.params, optimizer, key, statistics=ticket.statistics)
        state = fit(search_step(method, loss, optimizer), state, data, ...)
        network = effective_params(ticket, state.params["weights"])

    The tickets of a population give theirs as hyperparameters:
    ``lambda hyper: fixed_mask(hyper["mask"], hyper["scale"])``.

    Args:
      mask: m, booleans like the parameters, ``optax.MaskedNode()`` for leaves that are whole.
      scale: c, a positive scalar, may be traced.

    Raises:
      ValueError: ``scale`` is not a positive finite number; in a step: the mask has not the
        structure of the parameters or the shape of a leaf.
    """
    factor = _checks.scalar("scale", scale, "a positive finite number", lambda x: 0 < x < math.inf)

    def init(params, key):
        del key
        return {"weights": params}, mask

    def effective(trained, mask, step, key):
        del step, key
        return effective_params(Ticket(mask, None, factor), trained["weights"])

    def penalty(trained, step):
        del trained, step
        return jnp.zeros(())

    def following(trained, rewind_params, mask):
        del trained, mask
        return rewind_params

    return Method(
        init, effective, penalty, lambda trained, mask, key: mask, following,
        lambda trained: trained["weights"], factor,
    )  # fmt: skip
