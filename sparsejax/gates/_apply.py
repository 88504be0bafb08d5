"""A network under its gates: its parameters times z."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from sparsejax._dtypes import promoted
from sparsejax._tied_gates import broadcast_gates
from sparsejax._where import PyTree, is_masked


def apply(params: PyTree, z: PyTree) -> PyTree:
    r"""The gated parameters, :math:`\theta \odot z`, with gates broadcast over their groups.

    Which leaves share gates is part of ``z``: it was found when the gates were initialised (see
    ``tied`` of `hard_concrete` and `sigmoid`). A closed gate of an output closes the unit, its bias
    included; a normalisation behind it only where ``tied`` says so. A tree of gates that is made by
    hand gates the leaves that it has arrays for, and no others.

    Args:
      params: the parameters that the gates were initialised for, of any Flax model (NNX state,
        Linen dict), of Equinox or of none.
      z: gates, as `Gates` make them.

    Returns:
      A tree like ``params``, each leaf in its dtype.

    Raises:
      ValueError: ``z`` has gates that ``params`` has no leaf for, or that do not broadcast to their
        leaf.
    """

    def under(leaf, gate):
        if is_masked(gate):
            return leaf
        wide = promoted(leaf, gate)
        return (jnp.asarray(leaf, wide) * jnp.asarray(gate, wide)).astype(leaf.dtype)

    return jax.tree.map(under, params, broadcast_gates(params, z))
