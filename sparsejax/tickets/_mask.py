"""Masks of subnetworks, their size and their similarity."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int32, PyTree, UInt32

from sparsejax._dtypes import at_least_float32
from sparsejax._where import Where, mask_out
from sparsejax._words import as_count, as_float, check_sizes, total


def ones_mask(params: PyTree[Array], where: Where = None) -> PyTree[Bool[Array, "..."]]:
    """Return the mask that keeps all weights.

    Args:
      params: pytree of arrays, the parameters of a network.
      where: leaves that the mask covers, all others become ``optax.MaskedNode()``; default: kernels
        and embeddings (see `sparsejax.chosen`).

    Returns:
      A tree like ``params`` of boolean arrays, True everywhere.

    Raises:
      TypeError: a chosen leaf is not floating point.
      ValueError: ``where`` chooses no leaf.

    Example:
      >>> import jax.numpy as jnp
      >>> from sparsejax.tickets import num_nonzero, ones_mask
      >>> mask = ones_mask({"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)})
      >>> print(num_nonzero(mask))
      12
    """
    return jax.tree.map(lambda leaf: jnp.ones_like(leaf, bool), mask_out(params, where))


def num_nonzero(mask: PyTree[Bool[Array, "..."]]) -> Int32[Array, ""] | UInt32[Array, "2"]:
    """Count the weights that a mask keeps, over all of its leaves together.

    Args:
      mask: pytree of boolean arrays.

    Returns:
      An int32 scalar; for a mask of more than 2**31 - 1 entries an array [2] of uint32, the high
      and the low 32 bits of the count.

    Raises:
      TypeError: a leaf is not boolean, such as a mask that is packed to bits.
      ValueError: a leaf has 2**31 entries or more.

    Example:
      >>> import jax.numpy as jnp
      >>> from sparsejax.tickets import num_nonzero
      >>> print(num_nonzero({"kernel": jnp.array([[True, False], [True, True]])}))
      3
    """
    _check_boolean("mask", mask)
    return as_count(_count(mask), sum(m.size for m in jax.tree.leaves(mask)))


def _check_boolean(name: str, mask: PyTree[Array]) -> None:
    for path, leaf in jax.tree_util.tree_flatten_with_path(mask)[0]:
        if (dtype := jnp.result_type(leaf)) != jnp.bool_:
            raise TypeError(
                f"{name} must hold booleans; {jax.tree_util.keystr(path) or 'its leaf'} has dtype "
                f"{dtype}. Of a mask that is packed to bits take `masked_params(opt_state, ones)` "
                "!= 0, with ones like the parameters"
            )


def _count(mask: PyTree[Bool[Array, "..."]]) -> Int32[Array, "2"]:
    """Return the words of the number of weights that a mask keeps."""
    flat, _ = jax.tree_util.tree_flatten_with_path(mask)
    check_sizes([jax.tree_util.keystr(path) for path, _ in flat], [leaf.size for _, leaf in flat])
    return total([jnp.sum(leaf, dtype=jnp.int32) for _, leaf in flat])


def jaccard(
    first: PyTree[Bool[Array, "..."]], second: PyTree[Bool[Array, "..."]]
) -> Float[Array, ""]:
    r"""Jaccard similarity of two masks.

    .. math:: J(A, B) = |A \cap B| \,/\, |A \cup B|

    Args:
      first: pytree of boolean arrays.
      second: pytree of boolean arrays of the same structure and shapes.

    Returns:
      A float32 scalar in [0, 1], the quotient of counts rounded to float32; 1 if both masks are
      empty.

    Raises:
      TypeError: a leaf is not boolean, such as a mask that is packed to bits.
      ValueError: a leaf has 2**31 entries or more.

    Example:
      >>> import jax.numpy as jnp
      >>> from sparsejax.tickets import jaccard
      >>> print(jaccard(jnp.array([True, True, False]), jnp.array([True, False, False])))
      0.5
    """
    _check_boolean("first", first)
    _check_boolean("second", second)
    both = as_float(_count(jax.tree.map(jnp.logical_and, first, second)))
    either = as_float(_count(jax.tree.map(jnp.logical_or, first, second)))
    return jnp.where(either == 0, 1.0, both / jnp.maximum(either, 1))


def times(leaf: Array, factor: ArrayLike) -> Array:
    """Product in the dtype of ``leaf``, computed in float32 or wider and rounded once."""
    wide = at_least_float32(leaf.dtype)
    return (leaf.astype(wide) * jnp.asarray(factor).astype(wide)).astype(leaf.dtype)
