"""Training under a mask that does not change."""

from __future__ import annotations

import math

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int32, PRNGKeyArray, PyTree

from sparsejax import _checks
from sparsejax.tickets._method import Method, Trained
from sparsejax.tickets._ticket import Ticket, effective_params


def fixed_mask(mask: PyTree[Bool[Array, "..."]], scale: Float[ArrayLike, ""] = 1.0) -> Method:
    r"""Method that trains a ticket: a search whose mask does not change.

    .. math:: \min_w\ L(c\, m \odot w)

    A ticket is trained by the same step and loop as a search, with its scale outside of the
    weights (see `Ticket`)::

        method = fixed_mask(ticket.mask, ticket.scale)
        state = init_search(method, ticket.params, optimizer, key, statistics=ticket.statistics)
        state = fit(search_step(method, loss, optimizer), state, data, ...)
        network = effective_params(ticket, state.params["weights"])

    For the tickets of a population pass masks and scales as hyperparameters:
    ``lambda hyper: fixed_mask(hyper["mask"], hyper["scale"])``.

    Args:
      mask: m, pytree of boolean arrays like the parameters, with ``optax.MaskedNode()`` at leaves
        that have no mask.
      scale: c, a positive scalar, may be traced.

    Returns:
      A `Method`.

    Raises:
      TypeError: ``scale`` is not a number.
      ValueError: ``scale`` is not positive and finite; in a step: the mask does not have the
        structure of the parameters or the shape of a leaf.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> from sparsejax.tickets import fixed_mask, init_search, search_step
      >>> loss = lambda params, batch, key: (((params - batch) ** 2).sum(), {})
      >>> method, optimizer = fixed_mask(jnp.array([True, False])), optax.sgd(0.5)
      >>> state = init_search(method, jnp.array([1.0, 1.0]), optimizer, jax.random.key(0))
      >>> state, metrics = search_step(method, loss, optimizer)(state, jnp.array([3.0, 3.0]))
      >>> print(state.params["weights"])
      [3. 1.]
    """
    factor = _checks.scalar("scale", scale, "a positive finite number", lambda x: 0 < x < math.inf)

    def init(
        params: PyTree[Array], key: PRNGKeyArray
    ) -> tuple[Trained, PyTree[Bool[Array, "..."]]]:
        del key
        return {"weights": params}, mask

    def effective(
        trained: Trained,
        mask: PyTree[Bool[Array, "..."]],
        step: Int32[Array, ""],
        key: PRNGKeyArray,
    ) -> PyTree[Array]:
        del step, key
        return effective_params(Ticket(mask, None, factor), trained["weights"])

    def penalty(trained: Trained, step: Int32[Array, ""]) -> Float[Array, ""]:
        del trained, step
        return jnp.zeros(())

    def next_start(
        trained: Trained, rewind_params: Trained, mask: PyTree[Bool[Array, "..."]]
    ) -> Trained:
        del trained, mask
        return rewind_params

    return Method(
        init, effective, penalty, lambda trained, mask, key: mask, next_start,
        lambda trained: trained["weights"], factor,
    )  # fmt: skip
