"""Which leaves of a pytree are sparsified: the one meaning of ``where`` in the library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

PyTree = Any
Where = Callable[[tuple[Any, ...], Any], bool] | PyTree | None
"""A callable ``(path, leaf) -> bool`` (``path`` as in ``jax.tree_util.tree_map_with_path``),
a pytree of bools (or a prefix of one, as in ``optax.masked``), or ``None`` for the default:
floating-point leaves with two or more dimensions."""


def everything(path: tuple[Any, ...], leaf: Any) -> bool:
    """A ``where`` that chooses every leaf."""
    del path, leaf
    return True


def kernels(path: tuple[Any, ...], leaf: Any) -> bool:
    """The default ``where``: floating-point leaves with two or more dimensions."""
    del path
    return jnp.issubdtype(jnp.result_type(leaf), jnp.floating) and jnp.ndim(leaf) >= 2


class Chosen(NamedTuple):
    """The chosen leaves of a tree, and what is needed to put them back."""

    paths: list[str]
    leaves: list[jax.Array]
    others: list[Any]
    """All leaves of the tree in order, ``None`` in the places of the chosen ones."""
    treedef: Any

    @property
    def size(self) -> int:
        """How many entries the chosen leaves have together."""
        return sum(leaf.size for leaf in self.leaves)

    def put_back(self, leaves: list[jax.Array]) -> PyTree:
        """The whole tree again, with ``leaves`` in the places of the chosen ones."""
        new = iter(leaves)
        return self.treedef.unflatten(
            [next(new) if other is None else other for other in self.others]
        )


def resolve_where(tree: PyTree, where: Where) -> PyTree:
    """A pytree of Python bools with the structure of ``tree``.

    Raises:
      ValueError: ``where`` is a pytree that is no prefix of ``tree``, holds something that is not
        a bool, or chooses nothing from a tree that has leaves.
      TypeError: a chosen leaf is not a floating-point array.
    """
    if where is None or callable(where):
        choose = kernels if where is None else where
        mask = jax.tree_util.tree_map_with_path(lambda p, leaf: bool(choose(p, leaf)), tree)
    else:
        try:
            mask = jax.tree.broadcast(where, tree)
        except ValueError as error:
            raise ValueError(
                "where must be a callable (path, leaf) -> bool, or a pytree of bools that is a "
                f"prefix of the tree; its structure is {jax.tree.structure(where)}, the tree's is "
                f"{jax.tree.structure(tree)}"
            ) from error
        mask = jax.tree.map(_as_bool, mask)
    chosen = jax.tree.leaves(mask)
    if chosen and not any(chosen):
        rule = "floating-point leaves with two or more dimensions" if where is None else repr(where)
        raise ValueError(
            f"where={rule} chooses none of the tree's {len(chosen)} leaves; at least one is needed"
        )
    jax.tree_util.tree_map_with_path(_check_leaf, tree, mask)
    return mask


def choose(tree: PyTree, where: Where) -> Chosen:
    """The leaves of ``tree`` that ``where`` chooses, as arrays; raises as `resolve_where` does."""
    mask = jax.tree.leaves(resolve_where(tree, where))
    flat, treedef = jax.tree_util.tree_flatten_with_path(tree)
    pairs = list(zip(flat, mask, strict=True))
    return Chosen(
        paths=[jax.tree_util.keystr(path) for (path, _), m in pairs if m],
        leaves=[jnp.asarray(leaf) for (_, leaf), m in pairs if m],
        others=[None if m else leaf for (_, leaf), m in pairs],
        treedef=treedef,
    )


def mask_out(tree: PyTree, where: Where) -> PyTree:
    """``tree`` with ``optax.MaskedNode()`` (no leaf at all) where ``where`` does not choose."""
    return jax.tree.map(
        lambda leaf, m: leaf if m else optax.MaskedNode(), tree, resolve_where(tree, where)
    )


def _as_bool(value: Any) -> bool:
    if not isinstance(value, (bool, jnp.bool_)):
        raise ValueError(f"where must hold bools; it holds {value!r} ({type(value).__name__})")
    return bool(value)


def _check_leaf(path: tuple[Any, ...], leaf: Any, chosen: bool) -> None:
    dtype = jnp.result_type(leaf)
    if chosen and not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(
            f"where chooses the leaf {jax.tree_util.keystr(path)} of dtype {dtype}; only "
            "floating-point leaves can be sparsified"
        )


def under_mask(params: PyTree, mask: PyTree) -> PyTree:
    """``params`` with zeros where a mask is False; whole where it has a ``MaskedNode``."""

    def cut(leaf, m):
        return leaf if isinstance(m, optax.MaskedNode) else jnp.where(m, leaf, jnp.zeros_like(leaf))

    return jax.tree.map(cut, params, mask)
