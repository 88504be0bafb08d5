"""Masks with one bit for each weight."""

from __future__ import annotations

from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, UInt8

from sparsejax._explicit_axes import cut_like, gathered

MaskDtype: TypeAlias = Literal["bool", "packed"]
"""How a state keeps masks: a byte for each weight, or a bit."""


def pack(mask: Bool[Array, "..."]) -> UInt8[Array, "..."]:
    """Return a mask with eight entries in each byte.

    The entries of a byte are neighbours along the dimension that wastes the fewest bits, so that a
    shard of the mask is made from the same shard of the weights wherever whole bytes allow it.

    Args:
      mask: boolean array.

    Returns:
      A uint8 array: of the shape of the mask, with that dimension divided by eight and rounded up.
    """
    mask = gathered(mask)
    shape = mask.shape or (1,)
    axis = _packed_axis(shape)
    bits = mask.reshape(shape).astype(jnp.uint8)
    missing = -shape[axis] % 8
    bits = jnp.pad(bits, [(0, missing if n == axis else 0) for n in range(len(shape))])
    bits = bits.reshape(*shape[:axis], -(-shape[axis] // 8), 8, *shape[axis + 1 :])
    return (bits << _places(len(shape), axis)).sum(axis + 1, dtype=jnp.uint8)


def unpack(packed: UInt8[Array, "..."], leaf: jax.Array) -> Bool[Array, "..."]:
    """Return the mask of a leaf, which says its shape and sharding.

    Raises:
      ValueError: the mask is neither of such a leaf nor of each member of a population of leaves,
        stacked along the first dimensions.
    """
    stacked = next(
        (
            count
            for count in range(leaf.ndim + 1)
            if (*leaf.shape[:count], *_packed_shape(leaf.shape[count:])) == packed.shape
        ),
        None,
    )
    if stacked is None:
        raise ValueError(
            f"mask must be that of a leaf of shape {leaf.shape}, packed to "
            f"{_packed_shape(leaf.shape)}; got {packed.shape}"
        )
    shape = (*leaf.shape[:stacked], *(leaf.shape[stacked:] or (1,)))
    axis = stacked + _packed_axis(shape[stacked:])
    bits = (jnp.expand_dims(packed, axis + 1) >> _places(len(shape), axis)) & jnp.uint8(1)
    bits = bits.reshape(*shape[:axis], 8 * packed.shape[axis], *shape[axis + 1 :])
    mask = jax.lax.slice_in_dim(bits, 0, shape[axis], axis=axis).reshape(leaf.shape) != 0
    return cut_like(mask, leaf)


def _packed_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of a packed mask."""
    shape = shape or (1,)
    axis = _packed_axis(shape)
    return (*shape[:axis], -(-shape[axis] // 8), *shape[axis + 1 :])


def _packed_axis(shape: tuple[int, ...]) -> int:
    """Return the dimension that needs the fewest bytes, the last of those that tie."""

    def waste(axis: int) -> float:
        return -(-shape[axis] // 8) * 8 / shape[axis] if shape[axis] else 1.0

    return min(reversed(range(len(shape))), key=waste)


def _places(ndim: int, axis: int) -> UInt8[Array, "..."]:
    shape = [1] * (ndim + 1)
    shape[axis + 1] = 8
    return jnp.arange(8, dtype=jnp.uint8).reshape(shape)
