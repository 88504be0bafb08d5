"""Projection onto trees with few non-zero blocks, ranked over all leaves together."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, ArrayLike, Integer, PyTree

from sparsejax._where import Where, choose
from sparsejax.projections._groups import keep_groups
from sparsejax.projections._shards import Layout, layouts_of


def project_blocks(
    tree: PyTree[Array],
    kappa: Integer[ArrayLike, ""],
    block: tuple[int, int],
    where: Where = None,
    *,
    specs: PyTree[PartitionSpec] | None = None,
) -> PyTree[Array]:
    r"""Project onto the trees with at most ``kappa`` non-zero blocks over all chosen leaves.

    .. math:: \arg\min_\theta \tfrac12\|w-\theta\|_2^2 \quad \text{s.t.}\quad
              \sum_g [\,\theta_g \ne 0\,] \le \kappa

    Blocks g tile the last two dimensions of a leaf, starting at index 0, for each index of its
    other dimensions (for a convolution kernel [height, width, in, out] at each spatial position).
    Where a dimension is not a multiple of the block's length, the last blocks are smaller and
    count as one block each. The ``kappa`` blocks with the largest Euclidean norms are kept bit for
    bit and all other entries become +0. Ties keep the earlier block, in ``jax.tree`` order and
    then in row-major order.

    Squared norms are summed in integer arithmetic as in `project_units`: the result depends
    neither on the order of the entries nor on the number of devices, and at least 48 bits of each
    squared norm are compared.

    Args:
      tree: pytree of arrays, sharded or not; the chosen leaves are floating point, with two or
        more dimensions.
      kappa: integer scalar, the maximum number of non-zero blocks. A concrete value must be
        between 0 and the number of blocks; a traced value is clipped to that range.
      block: the number of rows and columns of a block, integers >= 1.
      where: the leaves that are projected together; all others are returned unchanged.
      specs: the sharding of the leaves inside ``shard_map`` or ``pmap``, as in `project_l0_ball`.

    Returns:
      A tree with the structure, shapes and dtypes of ``tree``. The gradient flows to the kept
      entries only. Blocks with an infinite entry rank first and tie with one another. If a chosen
      entry is NaN, a concrete tree is an error, and under ``jit`` every chosen entry of the result
      is NaN.

    Raises:
      TypeError: ``kappa`` or a length of ``block`` is not an integer, or a chosen leaf is not
        floating point.
      ValueError: ``kappa`` or ``block`` is out of range, a chosen leaf has fewer than two
        dimensions, a concrete leaf holds NaN, ``where`` chooses nothing, or ``specs`` does not fit
        the tree; or, inside ``shard_map`` and on a mesh with explicit axes, a sharded dimension of
        the local shard is not a multiple of the block's length.

    References:
      Narang, Undersander and Diamos, Block-sparse recurrent neural networks, arXiv:1711.02782,
      2017.
    """
    blocks = Blocks(*_lengths(block))
    chosen = choose(tree, where)
    for path, leaf in zip(chosen.paths, chosen.leaves, strict=True):
        if leaf.ndim < 2:
            raise ValueError(
                f"where must choose leaves of two or more dimensions, which blocks tile; "
                f"{path or 'the leaf'} has shape {leaf.shape}"
            )
    layouts = layouts_of(tree, chosen, specs)
    return keep_groups("kappa", kappa, chosen, layouts, blocks, [1] * len(layouts))


class Blocks(NamedTuple):
    """The `Grouping` of entries in tiles of the last two dimensions."""

    rows: int
    columns: int

    def shape(self, whole: tuple[int, ...]) -> tuple[int, ...]:
        return (*whole[:-2], -(-whole[-2] // self.rows), -(-whole[-1] // self.columns))

    def split(self, leaf: jax.Array, layout: Layout) -> tuple[jax.Array, tuple[int, ...]]:
        *_, rows, columns = groups = self.shape(leaf.shape)
        missing = (rows * self.rows - leaf.shape[-2], columns * self.columns - leaf.shape[-1])
        for more, names, length in zip(missing, layout.axes[-2:], self, strict=True):
            if more and names:
                raise ValueError(
                    f"a sharded dimension of the local shard must be a multiple of the block's "
                    f"length {length}; the shard has shape {leaf.shape}, cut by mesh axes {names}"
                )
        if any(missing):  # zeros do not change a norm
            leaf = jnp.pad(leaf, [(0, 0)] * (leaf.ndim - 2) + [(0, more) for more in missing])
        tiled = leaf.reshape(*groups[:-1], self.rows, columns, self.columns)
        return tiled, (tiled.ndim - 3, tiled.ndim - 1)

    def layout(self, layout: Layout) -> tuple[Layout, frozenset[str]]:
        return layout, frozenset()

    def broadcast(self, groups: jax.Array, leaf: jax.Array) -> jax.Array:
        *outer, rows, columns = groups.shape
        shape = (*outer, rows, self.rows, columns, self.columns)
        tiled = jnp.broadcast_to(groups[..., :, None, :, None], shape)
        whole = tiled.reshape(*outer, rows * self.rows, columns * self.columns)
        return whole[..., : leaf.shape[-2], : leaf.shape[-1]]


def _lengths(block: tuple[int, int]) -> tuple[int, int]:
    allowed = "block must be a pair of integers >= 1, rows and columns"
    if not isinstance(block, (tuple, list)) or len(block) != 2:
        raise ValueError(f"{allowed}; got {block!r}")
    for length in block:
        if isinstance(length, bool) or not isinstance(length, int):
            raise TypeError(f"{allowed}; got {block!r}")
        if length < 1:
            raise ValueError(f"{allowed}; got {block!r}")
    return block[0], block[1]
