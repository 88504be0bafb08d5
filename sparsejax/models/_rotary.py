"""The rotary position embedding."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from sparsejax._dtypes import at_least_float32


def rotate(
    units: Float[Array, "batch length heads size"], theta: float
) -> Float[Array, "batch length heads size"]:
    """Rotate pairs of units of queries or keys by angles that grow with the position.

    Units i and i + size/2 of a head at position p are rotated by p theta^(-2i/size). The product of
    a rotated query and a rotated key then depends on the difference of their positions alone.
    (The paper pairs neighbouring units, which is the same up to a permutation of the units.)

    References:
      Su, Lu, Pan, Murtadha, Wen and Liu, RoFormer: enhanced transformer with rotary position
      embedding, Neurocomputing 568, 2024.
    """
    length, size = units.shape[1], units.shape[3]
    dtype = at_least_float32(units.dtype)  # bfloat16 has too few bits for the angles
    frequencies = theta ** (-jnp.arange(0, size, 2, dtype=dtype) / size)
    angles = jnp.arange(length, dtype=dtype)[:, None] * frequencies
    cos, sin = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]
    first, second = jnp.split(units.astype(dtype), 2, axis=-1)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(units.dtype)
