"""Projection onto few non-zero blocks of matrices, ranked over all leaves."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from chex import Numeric

from sparsejax._where import PyTree, Where, choose
from sparsejax.projections._groups import keep_groups
from sparsejax.projections._shards import Layout, layouts_of


def project_blocks(
    tree: PyTree,
    kappa: Numeric,
    block: tuple[int, int],
    where: Where = None,
    *,
    specs: PyTree = None,
) -> PyTree:
    r"""The nearest tree with at most ``kappa`` non-zero blocks over all chosen leaves together.

    .. math:: \arg\min_\theta \tfrac12\|w-\theta\|_2^2 \quad \text{s.t.}\quad
              \sum_g [\,\theta_g \ne 0\,] \le \kappa

    Blocks g tile the last two dimensions of a leaf from their start, at each index of the others
    (of a convolution's kernel [height, width, in, out] at each position). Where a length is no
    multiple of the block's, the last blocks are smaller, and count as one each like the others.
    The ``kappa`` blocks with the largest Euclidean norms are kept bit for bit, of equal ones the
    earlier, in ``jax.tree`` order and then row-major order of blocks; the rest become +0.

    Norms are compared as by `project_units`: added in integers, so that neither the order of the
    entries nor the number of devices matters, and to 48 bits of their squares at least.

    Args:
      tree: pytree of arrays, sharded or not; the chosen leaves are floating point, with two or
        more dimensions.
      kappa: integer scalar, how many blocks may stay. A known value must be between 0 and the
        number of blocks, a traced one is clipped to that range.
      block: rows and columns of a block, integers >= 1.
      where: which leaves are projected together; the others are returned as they are.
      specs: inside ``shard_map`` or ``pmap``, as for `project_l0_ball`.

    Returns:
      A tree like ``tree``. The gradient flows to the kept entries. Blocks with an infinite entry go
      first and tie. If a chosen entry is NaN: outside ``jit`` an error, under ``jit`` every chosen
      entry is NaN.

    Raises:
      TypeError: ``kappa`` or a length of ``block`` is not an integer, or a chosen leaf is not
        floating point.
      ValueError: ``kappa`` or ``block`` is out of range, a chosen leaf has fewer than two
        dimensions, a known leaf holds NaN, ``where`` chooses nothing, or ``specs`` does not fit; or
        (inside ``shard_map``, and on a mesh with explicit axes) a device's piece of a dimension
        that is cut is no multiple of the block.

    References:
      Narang, Undersander and Diamos, Block-sparse recurrent neural networks, arXiv:1711.02782,
      2017.
    """
    blocks = Blocks(*_lengths(block))
    chosen = choose(tree, where)
    for path, leaf in zip(chosen.paths, chosen.leaves, strict=True):
        if leaf.ndim < 2:
            raise ValueError(
                f"blocks need leaves of two or more dimensions; {path or 'the leaf'} has shape "
                f"{leaf.shape}"
            )
    layouts = layouts_of(tree, chosen, specs)
    return keep_groups("kappa", kappa, chosen, layouts, blocks, [1] * len(layouts))


class Blocks(NamedTuple):
    """A `Grouping`: the tiles of the last two dimensions."""

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
                    f"a device's piece must be a multiple of the block's length {length} along a "
                    f"dimension that is cut (by {names}); it has shape {leaf.shape}"
                )
        if any(missing):  # zeros change no norm
            leaf = jnp.pad(leaf, [(0, 0)] * (leaf.ndim - 2) + [(0, more) for more in missing])
        tiled = leaf.reshape(*groups[:-1], self.rows, columns, self.columns)
        return tiled, (tiled.ndim - 3, tiled.ndim - 1)

    def layout(self, layout: Layout) -> tuple[Layout, frozenset[str]]:
        return layout, frozenset()

    def spread(self, groups: jax.Array, leaf: jax.Array) -> jax.Array:
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
