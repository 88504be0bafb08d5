"""Arrays of one's own, so that a state can be donated without taking anything else with it."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from sparsejax._where import PyTree


def fresh(tree: PyTree) -> PyTree:
    """A copy of a tree, each leaf in a buffer that nothing else refers to.

    Donating an array (``jax.jit(..., donate_argnums=...)``) deletes its buffer. A state must
    therefore not hold one buffer twice, nor one that its caller still holds.
    """
    return jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), tree)
