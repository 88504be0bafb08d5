"""ResNet-20 in its CIFAR form (He et al., 2016), with batch normalisation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from sparsejax.models._cifar import check_images, conv3x3
from sparsejax.models._sizes import scaled

_STAGES = (16, 32, 64)


class ResNet20(nnx.Module):
    """A 3x3 convolution, nine residual blocks of two, and a dense layer: 269,722 parameters.

    Three stages of 16, 32 and 64 channels; the first convolution of the second and of the third
    halves the map with stride 2 (padded by 1 on each side, as in PyTorch; Flax's ``SAME`` would pad
    below and to the right alone). The shortcut has no parameters: where the map shrinks it takes
    every other pixel and fills the new channels with zeros (the paper's option A). Batch
    normalisation follows each convolution, ReLU each normalisation, in a block the last after the
    sum; then the mean over the map.

    Running statistics are ``nnx.BatchStat``, so training is functional where they are split off::

        graph, params, statistics = nnx.split(model, nnx.Param, nnx.BatchStat)
        model = nnx.merge(graph, params, statistics, copy=True)  # else changed in place
        logits, statistics = model(images), nnx.state(model, nnx.BatchStat)

    A new model normalises by the batch; ``model.eval()`` makes it use the running statistics.

    Args:
      classes: units of the last layer.
      width: multiplier of all channels (rounded, at least 1).
      dtype: of the computation, such as ``jnp.bfloat16``; parameters and statistics are float32.
      rngs: for the initial kernels (He-normal).

    Raises:
      ValueError: ``width`` is not positive.

    References:
      He, Zhang, Ren and Sun, Deep residual learning for image recognition, CVPR 2016, section 4.2.
    """

    def __init__(
        self,
        classes: int = 10,
        width: float = 1.0,
        dtype: jnp.dtype | type = jnp.float32,
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

    def __call__(self, images: jax.Array) -> jax.Array:
        """Float32 logits [batch, classes] of images [batch, 32, 32, 3], floating point.

        Raises:
          ValueError: the images have another shape, or are not floating point.
        """
        check_images(images)
        hidden = jax.nn.relu(self.norm(self.conv(images)))
        for block in self.blocks:
            hidden = block(hidden)
        return self.dense(hidden.mean(axis=(1, 2))).astype(jnp.float32)


class _Block(nnx.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, before: int, channels: int, stride: int, dtype, rngs: nnx.Rngs):
        self.conv1 = conv3x3(before, channels, dtype, rngs, stride)
        self.norm1 = nnx.BatchNorm(channels, momentum=0.9, dtype=dtype, rngs=rngs)
        self.conv2 = conv3x3(channels, channels, dtype, rngs)
        self.norm2 = nnx.BatchNorm(channels, momentum=0.9, dtype=dtype, rngs=rngs)
        self.stride, self.new = stride, channels - before

    def __call__(self, inputs: jax.Array) -> jax.Array:
        hidden = jax.nn.relu(self.norm1(self.conv1(inputs)))
        hidden = self.norm2(self.conv2(hidden))
        # Not by indexing, which is a gather where the batch size is symbolic.
        steps = (1, self.stride, self.stride, 1)
        shortcut = lax.slice(inputs, (0, 0, 0, 0), inputs.shape, steps)
        lower = self.new // 2
        around = ((0, 0), (0, 0), (0, 0), (lower, self.new - lower))
        return jax.nn.relu(hidden + jnp.pad(shortcut, around))
