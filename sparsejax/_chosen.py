"""A printable table of the leaves that ``where`` chooses from a tree."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
from jaxtyping import PyTree

from sparsejax._roles import Roles
from sparsejax._tree_layers import layer_leaves
from sparsejax._where import Where, default_roles, resolve_where, tied_paths


class ChosenLeaf(NamedTuple):
    """A leaf of a tree and whether it is chosen."""

    path: str
    """The path of the leaf, as ``jax.tree_util.keystr`` formats it."""
    shape: tuple[int, ...]
    """The shape of the leaf."""
    chosen: bool
    """Whether the leaf is chosen."""
    why: str
    """The reason for the choice."""

    @property
    def size(self) -> int:
        """The number of its entries."""
        return math.prod(self.shape)


class Choice(NamedTuple):
    """The leaves of a tree that are chosen and those that are left out; ``print`` shows a table."""

    leaves: tuple[ChosenLeaf, ...]
    """The leaves in ``jax.tree`` order. An array that occurs at several places of the tree is one
    leaf with all paths that are chosen, and one with all paths that are not."""

    @property
    def size(self) -> int:
        """The total number of entries of the chosen leaves."""
        return sum(leaf.size for leaf in self.leaves if leaf.chosen)

    def __str__(self) -> str:
        rows = [(leaf.path, str(list(leaf.shape)), f"{leaf.size:,}") for leaf in self.leaves]
        widths = [max(map(len, column), default=0) for column in zip(*rows, strict=True)]
        lines = []
        for is_chosen, title in ((True, "chosen"), (False, "left out")):
            found = [
                pair for pair in zip(self.leaves, rows, strict=True) if pair[0].chosen == is_chosen
            ]
            lines.append(f"{title}: {sum(leaf.size for leaf, _ in found):,} entries")
            for leaf, (path, shape, size) in found:
                lines.append(
                    f"  {path:<{widths[0]}}  {shape:<{widths[1]}}  {size:>{widths[2]}}  {leaf.why}"
                )
        return "\n".join(lines)


def chosen(params: PyTree, where: Where = None) -> Choice:
    """Return the leaves that ``where`` chooses from a tree, and the reasons, as a printable table.

    All functions of the library that take ``where`` choose these leaves.

    The default chooses kernels and embeddings. It depends on the names, shapes and dtypes of leaves
    and not on their values, and it works under ``jit``. It knows the names that Flax, Haiku, Keras,
    Equinox and PyTorch use, and considers the other leaves of the same layer, which is the node of
    the tree that holds a leaf. Its rules are, in this order:

    1. Leaves that are not floating point or have fewer than two dimensions are left out.
    2. Biases are left out: leaves with ``bias``, ``offset`` or ``beta`` in their names. Leaves
       called ``b`` (also ``b1`` beside ``w1`` and ``bq`` beside ``wq``) and the second of a pair
       ``(W, b)`` are biases if their shape is that of a bias of the kernel beside them, with or
       without stacked layers, or if ``b`` beside ``w`` is a column [out, 1]. So the factor ``b`` of
       LoRA's ``a`` and ``b`` is not a bias.
    3. Scales and statistics of normalisations are left out: leaves with ``scale``, ``gamma``,
       ``gain`` or ``norm`` in their names; a ``weight`` with the shape of the bias beside it; and a
       ``weight`` in a layer with ``norm``, ``ln`` or ``bn`` in its name or type.
    4. All other leaves are chosen: those with ``kernel``, ``embedding``, ``weight`` or ``w`` in
       their names, and matrices of any other name.

    The choice is doubtful if a leaf that is not called ``kernel`` or ``embedding`` may be a vector
    with one entry per unit, which is the case in each of these situations:

    - The biases and scales around it show that its leading axes count stacked layers, and only one
      axis remains for each layer.
    - It has an unknown name and belongs to a normalisation, or it has the shape of a bias beside it
      (as a scale does), or the shape of a bias of the ``kernel`` beside it.
    - It has an unknown name, all of its dimensions but one have length 1, and it has three or more
      dimensions or could be the bias of a leaf beside it.

    A doubtful leaf is left out, and a ``UserWarning`` names it once per process; pass ``where`` to
    decide. To choose all leaves with two or more dimensions, pass
    ``where=lambda path, leaf: leaf.ndim >= 2``.

    Args:
      params: pytree of arrays, or of their shapes and dtypes.
      where: a callable ``(path, leaf) -> bool``, a pytree of bools or a prefix of one, or None for
        the default.

    Returns:
      A `Choice`. ``print`` shows a table of the chosen leaves and one of the others, each leaf with
      its path, its shape, its number of entries and the reason. An array that occurs at several
      places of the tree is counted once; under ``jit``, where every argument is an array of its
      own, it is counted at each place.

    Raises:
      TypeError: a chosen leaf is not floating point, or a leaf is not an array.
      ValueError: ``where`` does not fit the tree or chooses nothing.

    Warns:
      UserWarning: ``where`` is None and its choice is doubtful for a leaf; once for each leaf.

    Example:
      >>> import jax.numpy as jnp
      >>> import sparsejax
      >>> print(sparsejax.chosen({"kernel": jnp.ones((8, 4)), "bias": jnp.ones(4)}))
      chosen: 32 entries
        ['kernel']  [8, 4]  32  a kernel or an embedding
      left out: 4 entries
        ['bias']    [4]      4  a bias
    """
    leaves = layer_leaves(params)
    roles = Roles(leaves)
    mask = jax.tree.leaves(resolve_where(params, where, roles))
    if where is None:
        reasons = [
            role.why + (" (doubtful: pass where)" if role.doubtful else "")
            for role in default_roles(roles)
        ]
    else:
        reasons = ["where chooses it" if m else "where leaves it out" for m in mask]
    flat, _ = jax.tree_util.tree_flatten_with_path(params)
    paths = [jax.tree_util.keystr(path) for path, _ in flat]
    first = {
        jax.tree_util.keystr(path): jax.tree_util.keystr(places[0])
        for places in tied_paths(params)
        for path in places
    }
    found: dict[tuple[str, bool], ChosenLeaf] = {}
    for path, leaf, is_chosen, why in zip(paths, leaves, mask, reasons, strict=True):
        key = (first.get(path, path), is_chosen)
        if key in found:
            other = found[key]
            why = f"{other.why}; one array at several places"
            found[key] = other._replace(path=f"{other.path} and {path}", why=why)
        else:
            found[key] = ChosenLeaf(path, leaf.shape, is_chosen, why)
    return Choice(tuple(found.values()))
