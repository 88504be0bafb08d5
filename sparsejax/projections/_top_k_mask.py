"""Masks of the entries with the largest magnitudes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, ArrayLike, Bool, Integer, PyTree

from sparsejax._pairs import pairs, same_shapes
from sparsejax._where import Chosen, Where, choose
from sparsejax._words import check_sizes
from sparsejax.projections._keys import KeyFormat, key_format
from sparsejax.projections._l0_ball import project_l0_ball


def top_k_mask(
    tree: PyTree[Array],
    kappa: Integer[ArrayLike, ""],
    within: PyTree[Bool[Array, "..."]] | None = None,
    where: Where = None,
) -> PyTree[Bool[Array, "..."]]:
    r"""Return a mask of the ``kappa`` entries with the largest magnitudes over all chosen leaves.

    .. math:: m = \arg\max_m \sum_i m_i |w_i| \quad \text{s.t.}\quad m \le m_0,\; \sum_i m_i=\kappa

    The mask is exact and costs as much as `project_l0_ball`; ties keep the earlier entry. Unlike
    the non-zeros of a projection, the mask can contain entries that are zero. So pruning a fifth of
    the surviving weights removes exactly that many, even if some survivors are zero.

    Args:
      tree: pytree of arrays, sharded or not; the chosen leaves are floating point.
      kappa: integer scalar, the number of entries in the mask. A concrete value must be between 0
        and the number of chosen entries; a traced value is clipped to that range, and a traced
        count beyond 2**31 - 1 is a pair, as in `project_l0_ball`. If ``within`` has fewer entries,
        the mask is ``within``.
      within: the mask m_0 of the entries to choose from, in the form that this function returns;
        None for all entries.
      where: the leaves whose entries are ranked together, see `sparsejax.chosen`.

    Returns:
      A tree with the structure of ``tree``: boolean arrays of the shapes of the chosen leaves, and
      ``optax.MaskedNode()`` for all other leaves. If a chosen entry is NaN, a concrete tree is an
      error, and under ``jit`` the result is ``within``.

    Raises:
      TypeError: ``kappa`` is not a number, or a chosen leaf is not floating point.
      ValueError: ``kappa`` is out of range or a float, ``within`` does not have the structure and
        the shapes of the chosen leaves, a concrete leaf holds NaN, ``where`` chooses nothing, or
        a chosen leaf has 2**31 entries or more.
    """
    chosen = choose(tree, where)
    check_sizes(chosen.paths, [leaf.size for leaf in chosen.leaves])
    allowed = _allowed(tree, chosen, within)
    ranks = key_format(chosen.leaves)
    raised = [
        _raised(ranks, leaf, allow) for leaf, allow in zip(chosen.leaves, allowed, strict=True)
    ]
    kept = project_l0_ball(raised, kappa, where=lambda path, leaf: True)
    # Keys are compared, since the hardware may flush the smallest magnitudes to zero.
    masks = [(ranks.keys(leaf) != 0) & allow for leaf, allow in zip(kept, allowed, strict=True)]
    return chosen.put_back(masks, others=optax.MaskedNode())


def _raised(ranks: KeyFormat, leaf: jax.Array, allow: jax.Array) -> jax.Array:
    """Increase magnitudes by one unit in the last place and zero the entries not allowed."""
    keys = ranks.keys(leaf)
    # Infinity is left as it is, since its successor is NaN; NaN is left to be detected.
    keys = jnp.where(keys >= ranks.infinity, keys, keys + 1)
    return lax.bitcast_convert_type(jnp.where(allow, keys, 0), ranks.dtype)


def _allowed(
    tree: PyTree[Array], chosen: Chosen, within: PyTree[Bool[Array, "..."]] | None
) -> list[jax.Array]:
    """Return for each chosen leaf a mask of the entries to choose from."""
    if within is None:
        return [jnp.ones(leaf.shape, bool) for leaf in chosen.leaves]
    found = pairs("within", within, tree, of="the tree")
    found = chosen.of(found)
    same_shapes("within", found, of="the tree")
    return [jnp.asarray(mask, bool) for _, _, mask in found]
