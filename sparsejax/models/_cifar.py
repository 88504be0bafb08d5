"""Layers and checks that the networks for CIFAR have in common."""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from sparsejax.models._member_convolution import conv_general_dilated


def conv3x3(
    inputs: int, channels: int, dtype: DTypeLike, rngs: nnx.Rngs, stride: int = 1
) -> nnx.Conv:
    """A 3x3 convolution, padded by 1 on each side, without bias, initialised He-normal."""
    return nnx.Conv(
        inputs, channels, (3, 3), strides=stride, padding=((1, 1), (1, 1)), use_bias=False,
        kernel_init=nnx.initializers.he_normal(), dtype=dtype, rngs=rngs,
        conv_general_dilated=conv_general_dilated,
    )  # fmt: skip


def check_images(images: Float[Array, "batch 32 32 3"]) -> None:
    """Raise ValueError unless the images are [batch, 32, 32, 3] and floating point."""
    if images.ndim != 4 or images.shape[1:] != (32, 32, 3):
        raise ValueError(f"images must have shape [batch, 32, 32, 3]; got {images.shape}")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images must be floating point, normalised; got {images.dtype}")
