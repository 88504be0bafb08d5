"""Groups of neighbouring weights that share a scale, and the scales that fit them."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from sparsejax._explicit_axes import cut_like, gathered
from sparsejax._where import everything
from sparsejax.projections import project_codebook

SCALE_DTYPE = jnp.bfloat16
"""The dtype in which scales are exact; it has the range of float32."""

_STARTS = (1.0, 0.85, 0.7)
_ITERATIONS = 3


class Groups(NamedTuple):
    """The division of an array into groups."""

    size: int
    """The number of entries of a group; the last one along the axis may have fewer."""
    axis: int
    """The axis along which the entries of a group follow one another."""

    def check(self, path: str, leaf: jax.Array) -> None:
        """Check that a leaf has the axis.

        Raises:
          ValueError: it has not.
        """
        if not -leaf.ndim <= self.axis < leaf.ndim:
            raise ValueError(
                f"axis must be one of the leaf's; {path or 'the leaf'} has shape {leaf.shape}, and "
                f"axis is {self.axis}. Compress it in another way by partition"
            )

    def blocks(self, leaf: jax.Array) -> jax.Array:
        """Return the leaf with its axis split in two, groups and entries; the end is filled up."""
        axis = self.axis % leaf.ndim
        length = leaf.shape[axis]
        count = -(-length // self.size)
        widths = [(0, 0)] * leaf.ndim
        widths[axis] = (0, count * self.size - length)
        shape = (*leaf.shape[:axis], count, self.size, *leaf.shape[axis + 1 :])
        return jnp.pad(leaf, widths).reshape(shape)

    def joined(self, blocks: jax.Array, leaf: jax.Array) -> jax.Array:
        """Return an array of the leaf's shape; the inverse of `blocks`."""
        axis = self.axis % leaf.ndim
        shape = (*leaf.shape[:axis], -1, *leaf.shape[axis + 1 :])
        return lax.slice_in_dim(blocks.reshape(shape), 0, leaf.shape[axis], axis=axis)


@functools.partial(jax.jit, static_argnames="groups")
def normalised(leaf: Float[Array, "..."], groups: Groups) -> Float[Array, "..."]:
    """Return a leaf divided by the largest magnitude of each group."""
    whole = gathered(leaf)
    blocks = groups.blocks(whole)
    largest = jnp.abs(blocks).max(groups.axis % leaf.ndim + 1, keepdims=True)
    found = groups.joined(blocks / jnp.where(largest > 0, largest, 1), whole)
    return cut_like(found, leaf)


@functools.partial(jax.jit, static_argnames=("groups", "zeros"))
def fit(
    leaf: Float[Array, "..."], codebook: Float[Array, " k"], groups: Groups, zeros: bool
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Return a leaf in the values of a codebook times a scale for each group, and the scales.

    The least-squares scale of a group and the nearest values follow one another, which never raises
    the error, from scales at which the group's largest magnitude is the codebook's or somewhat
    beyond it. The best is kept.

    Args:
      leaf: the weights.
      codebook: the values.
      groups: the groups.
      zeros: whether zeros take a value of the codebook, too.
    """
    whole = gathered(leaf)
    blocks = groups.blocks(whole.astype(codebook.dtype))
    counted = groups.blocks(jnp.ones(leaf.shape, bool)) & (zeros | (blocks != 0))
    axis = groups.axis % leaf.ndim + 1
    most = jnp.abs(codebook).max()
    reach = jnp.abs(blocks).max(axis, keepdims=True) / jnp.where(most > 0, most, 1)

    def values(scale: jax.Array) -> jax.Array:
        divided = blocks / jnp.where(scale > 0, scale, 1)
        return jnp.where(counted, project_codebook(divided, codebook, everything), 0)

    def refine(_: jax.Array, scale: jax.Array) -> jax.Array:
        found = values(scale)
        under = jnp.square(found).sum(axis, keepdims=True)
        over = (found * blocks).sum(axis, keepdims=True)
        return jnp.where(under > 0, jnp.maximum(over, 0) / jnp.where(under > 0, under, 1), scale)

    def attempt(
        best: tuple[jax.Array, jax.Array], start: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], None]:
        scale = lax.fori_loop(0, _ITERATIONS, refine, start * reach)
        scale = scale.astype(SCALE_DTYPE).astype(codebook.dtype)
        error = jnp.square(blocks - scale * values(scale)).sum(axis, keepdims=True)
        better = error < best[1]
        return (jnp.where(better, scale, best[0]), jnp.where(better, error, best[1])), None

    none = jnp.zeros_like(reach), jnp.square(blocks).sum(axis, keepdims=True)
    (scale, _), _ = lax.scan(attempt, none, jnp.asarray(_STARTS, codebook.dtype))
    found = jnp.where(scale > 0, scale * values(scale), 0)  # no -0.0
    found = groups.joined(found, whole).astype(leaf.dtype)
    return cut_like(found, leaf), scale.squeeze(axis)
