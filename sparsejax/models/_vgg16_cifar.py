"""VGG-16 in its CIFAR form: batch normalisation, and one dense layer."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from sparsejax.models._cifar import check_images, conv3x3
from sparsejax.models._sizes import scaled

_BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # channels, convolutions


class VGG16Cifar(nnx.Module):
    """Thirteen 3x3 convolutions in five blocks and a dense layer: 14,724,042 parameters.

    Each convolution pads by 1 and has no bias; batch normalisation and ReLU follow it; each block
    ends with a 2x2 max-pool, so that 512 numbers are left of an image of 32 x 32.

    Running statistics and modes as in `ResNet20`.

    Args:
      classes: units of the last layer.
      width: multiplier of all channels (rounded, at least 1).
      dtype: of the computation, such as ``jnp.bfloat16``; parameters and statistics are float32.
      rngs: for the initial kernels (He-normal).

    Raises:
      ValueError: ``width`` is not positive.

    References:
      Simonyan and Zisserman, Very deep convolutional networks for large-scale image recognition,
      ICLR 2015; with batch normalisation and a single dense layer as is usual for CIFAR-10.
    """

    def __init__(
        self,
        classes: int = 10,
        width: float = 1.0,
        dtype: jnp.dtype | type = jnp.float32,
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

    def __call__(self, images: jax.Array) -> jax.Array:
        """Float32 logits [batch, classes] of images [batch, 32, 32, 3], floating point.

        Raises:
          ValueError: the images have another shape, or are not floating point.
        """
        check_images(images)
        hidden, number = images, 0
        for _, depth in _BLOCKS:
            for _ in range(depth):
                hidden = self.convolutions[number](hidden)
                hidden = jax.nn.relu(self.norms[number](hidden))
                number += 1
            hidden = nnx.max_pool(hidden, (2, 2), strides=(2, 2))
        return self.dense(hidden.reshape(hidden.shape[0], -1)).astype(jnp.float32)
