"""Augmentation inside a jitted step: shifted and mirrored images."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax


def shifted_and_mirrored(
    images: jax.Array, key: jax.Array, shift: int, mirror: bool = False
) -> jax.Array:
    """Each image moved by up to ``shift`` pixels either way, and mirrored half of the time.

    What moves in from outside is 0. Drawn anew for every image from ``key``.

    Args:
      images: [batch, height, width, channels], any dtype.
      key: a PRNG key.
      shift: the most pixels, vertically and horizontally, uniform; 0 for none.
      mirror: left to right, with probability one half.

    Returns:
      Images of the same shape and dtype.

    Raises:
      ValueError: ``shift`` is negative.
    """
    if shift < 0:
        raise ValueError(f"shift must be an integer >= 0; got {shift}")
    places, sides = jax.random.split(key)
    if shift:
        around = ((0, 0), (shift, shift), (shift, shift), (0, 0))
        corners = jax.random.randint(places, (len(images), 2), 0, 2 * shift + 1)

        def crop(image: jax.Array, corner: jax.Array) -> jax.Array:
            return lax.dynamic_slice(image, (corner[0], corner[1], 0), images.shape[1:])

        images = jax.vmap(crop)(jnp.pad(images, around), corners)
    if mirror:
        chosen = jax.random.bernoulli(sides, shape=(len(images), 1, 1, 1))
        images = jnp.where(chosen, images[:, :, ::-1], images)
    return images
