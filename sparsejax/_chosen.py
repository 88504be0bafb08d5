"""What ``where`` chooses from a tree, leaf by leaf, to be printed."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax

from sparsejax._tree_layers import layer_leaves
from sparsejax._where import PyTree, Where, default_roles, resolve_where, tied_paths


class ChosenLeaf(NamedTuple):
    """A leaf of a tree, and whether it is chosen."""

    path: str
    shape: tuple[int, ...]
    chosen: bool
    why: str

    @property
    def size(self) -> int:
        """How many entries it has."""
        return math.prod(self.shape)


class Choice(NamedTuple):
    """The leaves of a tree, those that are chosen and those that are left out."""

    leaves: tuple[ChosenLeaf, ...]
    """In ``jax.tree`` order. An array that the tree holds at several places is one leaf, with all
    of its paths, for all places that are chosen, and one for all that are not."""

    @property
    def size(self) -> int:
        """How many entries the chosen leaves have together."""
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
    """Return which leaves ``where`` chooses from a tree and why, to be printed.

    All functions of this library that take ``where`` choose the same leaves::

        print(sparsejax.chosen(params))

    The default chooses kernels and embeddings. It reads names, shapes and dtypes, knows the names
    that Flax, Haiku, Keras, Equinox and PyTorch use, and takes into account the other leaves of the
    same layer, which is the node of the tree that holds them. Values do not matter, and neither
    does ``jit``. In this order:

    1. What is not floating point is left out, and so is what has fewer than two dimensions.
    2. Biases are left out: leaves with ``bias``, ``offset`` or ``beta`` in their name; ``b`` and
       the like (``b1`` beside ``w1``, ``bq`` beside ``wq``) and the second of a pair ``(W, b)``,
       where their shape is that of a bias of the kernel beside them, of stacked layers or not, or
       ``b`` beside ``w`` is a column [out, 1]. So ``b`` of LoRA's factors ``a`` and ``b`` is no
       bias.
    3. Scales and statistics of normalisations are left out: leaves with ``scale``, ``gamma``,
       ``gain`` or ``norm`` in their name; a ``weight`` of the same shape as the bias beside it; and
       a ``weight`` in a layer with ``norm``, ``ln`` or ``bn`` in its name or its type.
    4. All other leaves are chosen: those with ``kernel``, ``embedding``, ``weight`` or ``w`` in
       their name and matrices of any other name.

    The choice is doubtful where a leaf that is not called ``kernel`` or ``embedding`` may be a
    vector with an entry for each unit:

    - The shapes of the biases and scales around it show that its first axes count stacked layers,
      and only one axis remains for each layer.
    - It has an unknown name and belongs to a normalisation, or it has the shape of a bias beside it
      (as a scale has), or the shape of a bias of the ``kernel`` beside it.
    - It has an unknown name, and all of its dimensions but one have length 1, while it has three or
      more dimensions or could be the bias of a leaf beside it.

    Such a leaf is left out, and a ``UserWarning`` names it, once per process. Pass ``where`` to
    settle it. To choose all leaves with two or more dimensions, whatever they are::

        where = lambda path, leaf: leaf.ndim >= 2

    Args:
      params: pytree of arrays, or of their shapes and dtypes; values do not matter.
      where: a callable ``(path, leaf) -> bool``, a pytree of bools or a prefix of one, or None for
        the default.

    Returns:
      A `Choice`; ``print`` shows a table of the chosen leaves and one of the others, each leaf with
      its path, its shape, how many entries it has and the reason. An array that stands at two
      places of the tree is counted once. Under ``jit`` it is counted twice: there every argument
      is an array of its own.

    Raises:
      TypeError: a chosen leaf is not floating point, or a leaf is no array.
      ValueError: ``where`` does not fit the tree, or chooses nothing.

    Warns:
      UserWarning: ``where`` is None and its choice is doubtful for a leaf; once for each.
    """
    mask = jax.tree.leaves(resolve_where(params, where))
    leaves = layer_leaves(params)
    if where is None:
        reasons = [
            role.why + (" (doubtful: pass where)" if role.doubtful else "")
            for role in default_roles(params)
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
