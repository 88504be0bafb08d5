"""VGG-16 in its CIFAR form, with batch normalisation and one dense layer."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32

from sparsejax.models._cifar import check_images, conv3x3
from sparsejax.models._sizes import scaled

_BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # channels, convolutions


class VGG16Cifar(nnx.Module):
    """VGG-16 for CIFAR: thirteen 3x3 convolutions in five blocks and one dense layer.

    It has 14,724,042 parameters. Each convolution is padded by 1 on each side and has no bias;
    batch normalisation and ReLU follow it. Each block ends with a 2x2 max-pool, which leaves a map
    of 1x1x512 for the dense layer. Running statistics and modes are as in `ResNet20`.

    Args:
      classes: number of classes, units of the last layer.
      width: factor of all numbers of channels (rounded, at least 1).
      dtype: dtype of the computation, such as ``jnp.bfloat16``; parameters and statistics are
        float32.
      rngs: random streams for the initial kernels (He-normal).

    Raises:
      ValueError: ``width`` is not positive.

    References:
      Simonyan and Zisserman, Very deep convolutional networks for large-scale image recognition,
      ICLR 2015; with batch normalisation and one dense layer, as is usual for CIFAR-10.
    """

    def __init__(
        self,
        classes: int = 10,
        width: float = 1.0,
        dtype: DTypeLike = jnp.float32,
        *,
        rngs: nnx.Rngs,
    ):
        convolutions, norms, before = [], [], 3
        for channels, depth in _BLOCKS:
            channels = scaled(channels, width)
            for _ in range(depth):
                convolutions.append(conv3x3(before, channels, dtype, rngs))
                norms.append(nnx.BatchNorm(channels, momentum=0.9, dtype=dtype, rngs=rngs))
                before = channels
        self.convolutions, self.norms = nnx.List(convolutions), nnx.List(norms)
        self.dense = nnx.Linear(before, classes, dtype=dtype, rngs=rngs)

    def __call__(self, images: Float[Array, "batch 32 32 3"]) -> Float32[Array, "batch classes"]:
        """Compute the logits.

        Args:
          images: float array [batch, 32, 32, 3], normalised.

        Returns:
          Logits [batch, classes], float32.

        Raises:
          ValueError: the images have a different shape, or are not floating point.
        """
        check_images(images)
        hidden, number = images, 0
        for _, depth in _BLOCKS:
            for _ in range(depth):
                hidden = self.convolutions[number](hidden)
                hidden = jax.nn.relu(self.norms[number](hidden))
                number += 1
            hidden = nnx.max_pool(hidden, (2, 2), strides=(2, 2))
        logits: jax.Array = self.dense(hidden.reshape(hidden.shape[0], -1))
        return logits.astype(jnp.float32)
