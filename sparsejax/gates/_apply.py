"""Multiplication of parameters by gates."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from sparsejax._dtypes import promoted
from sparsejax._tied_gates import broadcast_gates
from sparsejax._where import is_masked


def apply(params: PyTree[Array], z: PyTree[Float[Array, "..."]]) -> PyTree[Array]:
    r"""Return the gated parameters, :math:`\theta \odot z`, with gates broadcast over their groups.

    Which leaves share gates was decided when the gates were initialised and is part of the
    structure of ``z`` (see ``tied`` in `sparsejax.gates`). A closed output gate removes the bias of
    its unit, too; the scale and bias of a normalisation after it only if ``tied`` names them. A
    tree of gates that was built by hand gates the leaves at which it has arrays, and no others.

    Args:
      params: the parameters for which the gates were initialised: a pytree of arrays of any Flax
        model (NNX state, Linen dict), of an Equinox module, or of no framework.
      z: gates as the functions of `Gates` return them: float arrays that broadcast to their leaves.

    Returns:
      A tree like ``params``, each leaf in its dtype; products are computed in the promoted dtype.

    Raises:
      ValueError: ``z`` has gates for which ``params`` has no leaf, or which do not broadcast to
        their leaf.

    Example:
      >>> import jax.numpy as jnp
      >>> from sparsejax.gates import apply
      >>> params = {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}
      >>> z = {"kernel": jnp.array([[1.0, 0.0]]), "bias": jnp.array([1.0, 0.0])}
      >>> print(apply(params, z)["kernel"])
      [[1. 0.]
       [1. 0.]
       [1. 0.]]
    """

    def gated(leaf: Array, gate: Any) -> Array:
        if is_masked(gate):
            return leaf
        wide = promoted(leaf, gate)
        return (jnp.asarray(leaf, wide) * jnp.asarray(gate, wide)).astype(leaf.dtype)

    return jax.tree.map(gated, params, broadcast_gates(params, z))
