"""Which entries are the largest: the projection onto the l0 ball as a mask."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from chex import Numeric
from jax import lax

from sparsejax._pairs import pairs, same_shapes
from sparsejax._where import Chosen, PyTree, Where, choose
from sparsejax.projections._keys import KeyFormat, key_format
from sparsejax.projections._l0_ball import project_l0_ball


def top_k_mask(tree: PyTree, kappa: Numeric, within: PyTree = None, where: Where = None) -> PyTree:
    r"""Which ``kappa`` entries of a tree, or of a part of it, have the largest magnitudes.

    .. math:: m = \arg\max_m \sum_i m_i |w_i| \quad \text{s.t.}\quad m \le m_0,\; \sum_i m_i=\kappa

    Exact like `project_l0_ball` and at its cost; of equal magnitudes the earlier entry is chosen.
    Other than in a projection's non-zeros, an entry that is zero can be chosen, so that pruning
    "a fifth of the survivors" takes exactly that many also where survivors are zero.

    Args:
      tree: pytree of arrays, sharded or not; the chosen leaves are floating point.
      kappa: integer scalar, how many; a traced one is clipped to what there is. More than
        ``within`` allows chooses all of ``within``.
      within: m_0: the entries to choose from, a mask as this function returns; default all.
      where: which leaves are ranked together.

    Returns:
      A tree like ``tree`` of boolean arrays, with ``optax.MaskedNode()`` for leaves not chosen. If
      an entry is NaN: outside ``jit`` an error, under ``jit`` all of ``within``.

    Raises:
      TypeError, ValueError: as `project_l0_ball`; or ``within`` has not the structure or the shapes
        of the chosen leaves.
    """
    chosen = choose(tree, where)
    allowed = _allowed(tree, chosen, within)
    ranks = key_format(chosen.leaves)
    raised = [
        _raised(ranks, leaf, allow) for leaf, allow in zip(chosen.leaves, allowed, strict=True)
    ]
    kept = project_l0_ball(raised, kappa, where=lambda path, leaf: True)
    # By their bits: the hardware may take the smallest magnitudes for zeros.
    masks = [(ranks.keys(leaf) != 0) & allow for leaf, allow in zip(kept, allowed, strict=True)]
    return chosen.put_back(masks, others=optax.MaskedNode())


def _raised(ranks: KeyFormat, leaf: jax.Array, allow: jax.Array) -> jax.Array:
    """Magnitudes one unit in the last place larger, so that only what is not allowed is zero."""
    keys = ranks.keys(leaf)
    # Infinity stays: one more would be NaN. NaN stays to be found.
    keys = jnp.where(keys >= ranks.infinity, keys, keys + 1)
    return lax.bitcast_convert_type(jnp.where(allow, keys, 0), ranks.dtype)


def _allowed(tree: PyTree, chosen: Chosen, within: PyTree) -> list[jax.Array]:
    """Of each chosen leaf, the entries to choose from."""
    if within is None:
        return [jnp.ones(leaf.shape, bool) for leaf in chosen.leaves]
    found = pairs("within", within, tree, of="the tree")
    found = chosen.of(found)
    same_shapes("within", found, of="the tree")
    return [jnp.asarray(mask, bool) for _, _, mask in found]
