"""ResNet-20 in its CIFAR form (He et al., 2016), with batch normalisation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32

from sparsejax.models._cifar import check_images, conv3x3
from sparsejax.models._sizes import scaled

_STAGES = (16, 32, 64)


class ResNet20(nnx.Module):
    """ResNet-20 for CIFAR: a 3x3 convolution, nine residual blocks of two and a dense layer.

    It has 269,722 parameters in three stages of 16, 32 and 64 channels. All convolutions are 3x3,
    padded by 1 on each side; the first convolution of the second and of the third stage has stride
    2. (PyTorch pads alike; Flax's ``SAME`` would pad only below and to the right at stride 2.) The
    shortcut has no parameters: at stride 2 it takes every second pixel and pads the new channels
    with zeros (option A of the paper). Batch normalisation follows each convolution and ReLU each
    normalisation, except that the second ReLU of a block follows the sum. The last map, 8x8, is
    averaged.

    Running statistics are ``nnx.BatchStat``. To train with pure functions, split them off::

        graph, params, statistics = nnx.split(model, nnx.Param, nnx.BatchStat)
        model = nnx.merge(graph, params, statistics, copy=True)  # otherwise modified in place
        logits, statistics = model(images), nnx.state(model, nnx.BatchStat)

    A new model normalises with the statistics of the batch; after ``model.eval()`` it uses the
    running statistics.

    Args:
      classes: number of classes, units of the last layer.
      width: factor of all numbers of channels (rounded, at least 1).
      dtype: dtype of the computation, such as ``jnp.bfloat16``; parameters and statistics are
        float32.
      rngs: random streams for the initial kernels (He-normal).

    Raises:
      ValueError: ``width`` is not positive.

    References:
      He, Zhang, Ren and Sun, Deep residual learning for image recognition, CVPR 2016, section 4.2.
    """

    def __init__(
        self,
        classes: int = 10,
        width: float = 1.0,
        dtype: DTypeLike = jnp.float32,
        *,
        rngs: nnx.Rngs,
    ):
        stages = [scaled(channels, width) for channels in _STAGES]
        self.conv = conv3x3(3, stages[0], dtype, rngs)
        self.norm = nnx.BatchNorm(stages[0], momentum=0.9, dtype=dtype, rngs=rngs)
        blocks, before = [], stages[0]
        for stage, channels in enumerate(stages):
            for number in range(3):
                stride = 2 if stage and not number else 1
                blocks.append(_Block(before, channels, stride, dtype, rngs))
                before = channels
        self.blocks = nnx.List(blocks)
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
        hidden = jax.nn.relu(self.norm(self.conv(images)))
        for block in self.blocks:
            hidden = block(hidden)
        logits: jax.Array = self.dense(hidden.mean(axis=(1, 2)))
        return logits.astype(jnp.float32)


class _Block(nnx.Module):
    """A residual block: two convolutions and a shortcut without parameters."""

    def __init__(self, inputs: int, channels: int, stride: int, dtype: DTypeLike, rngs: nnx.Rngs):
        self.conv1 = conv3x3(inputs, channels, dtype, rngs, stride)
        self.norm1 = nnx.BatchNorm(channels, momentum=0.9, dtype=dtype, rngs=rngs)
        self.conv2 = conv3x3(channels, channels, dtype, rngs)
        self.norm2 = nnx.BatchNorm(channels, momentum=0.9, dtype=dtype, rngs=rngs)
        self.stride, self.new = stride, channels - inputs

    def __call__(
        self, inputs: Float[Array, "batch height width inputs"]
    ) -> Float[Array, "batch new_height new_width channels"]:
        hidden = jax.nn.relu(self.norm1(self.conv1(inputs)))
        hidden = self.norm2(self.conv2(hidden))
        # Not by indexing, which becomes a gather if the batch size is symbolic.
        steps = (1, self.stride, self.stride, 1)
        shortcut = lax.slice(inputs, (0, 0, 0, 0), inputs.shape, steps)
        lower = self.new // 2
        around = ((0, 0), (0, 0), (0, 0), (lower, self.new - lower))
        return jax.nn.relu(hidden + jnp.pad(shortcut, around))
