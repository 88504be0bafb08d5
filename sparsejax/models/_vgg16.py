"""VGG-16: configuration D of Simonyan and Zisserman (2015), for ImageNet."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from sparsejax.models._sizes import scaled

_BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # channels, convolutions
_HIDDEN = 4096
_MAP = 7  # height and width of the map that the first dense layer reads

_CONVOLUTIONS = tuple(
    tuple(f"conv{block}_{number}" for number in range(1, depth + 1))
    for block, (_, depth) in enumerate(_BLOCKS, start=1)
)
VGG16_LAYERS = (*(name for block in _CONVOLUTIONS for name in block), "fc6", "fc7", "fc8")
"""The layers from input to output, for ``sparsejax.inspection.live_units``."""


class VGG16(nnx.Module):
    """VGG-16 for ImageNet: thirteen 3x3 convolutions in five blocks and three dense layers.

    It has 138,357,544 parameters. Each convolution is padded by 1 on each side, each block ends
    with a 2x2 max-pool of stride 2, and ReLU follows every layer but the last. The map [batch, 7,
    7, 512] is flattened channels last (published weights are channels first, see
    `load_vgg16_weights`). Dropout of 0.5 follows fc6 and fc7 after ``model.train()``; it is off in
    a new model and after ``model.eval()``.

    Kernels are initialised He-normal, biases as zeros, all float32. Construct the model inside
    ``nnx.eval_shape`` to have it without allocating parameters.

    Args:
      classes: number of classes, units of the last layer.
      width: factor of all numbers of channels and hidden units (rounded, at least 1).
      rngs: random streams for the initial kernels and, as the stream ``dropout``, for dropout.

    Raises:
      ValueError: ``classes`` or ``width`` is out of range.

    References:
      Simonyan and Zisserman, Very deep convolutional networks for large-scale image recognition,
      ICLR 2015.
    """

    def __init__(self, classes: int = 1000, width: float = 1.0, *, rngs: nnx.Rngs):
        if isinstance(classes, bool) or int(classes) != classes or classes < 1:
            raise ValueError(f"classes must be an integer >= 1; got {classes!r}")

        kernel_init = nnx.initializers.he_normal()
        units = 3
        for names, (channels, _) in zip(_CONVOLUTIONS, _BLOCKS, strict=True):
            for name in names:
                layer = nnx.Conv(
                    units, scaled(channels, width), (3, 3),
                    padding=((1, 1), (1, 1)), kernel_init=kernel_init, rngs=rngs,
                )  # fmt: skip
                setattr(self, name, layer)
                units = layer.out_features
        hidden = scaled(_HIDDEN, width)
        self.fc6 = nnx.Linear(_MAP * _MAP * units, hidden, kernel_init=kernel_init, rngs=rngs)
        self.fc7 = nnx.Linear(hidden, hidden, kernel_init=kernel_init, rngs=rngs)
        self.fc8 = nnx.Linear(hidden, classes, kernel_init=kernel_init, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, deterministic=True, rngs=rngs)

    def __call__(
        self, images: Float[Array, "batch height width 3"], *, rngs: nnx.Rngs | None = None
    ) -> Float[Array, "batch classes"]:
        """Compute the logits.

        The published image size is 224 x 224. The map after the last block is averaged to 7x7 over
        equal windows, so its height and width (those of the image divided by 32, rounded down) must
        be multiples of 7.

        Args:
          images: float array [batch, height, width, 3], normalised by the mean and standard
            deviation of each channel.
          rngs: in training, the stream ``dropout`` to use instead of the model's own; a pure loss
            function passes ``nnx.Rngs(dropout=key)``.

        Returns:
          Logits [batch, classes].

        Raises:
          ValueError: the images have a different shape, or are not floating point.
        """
        _check_images(images)
        hidden = images
        for names in _CONVOLUTIONS:
            for name in names:
                hidden = jax.nn.relu(getattr(self, name)(hidden))
            hidden = nnx.max_pool(hidden, (2, 2), strides=(2, 2))
        hidden = _average_to_map(hidden).reshape(hidden.shape[0], -1)
        hidden = self.dropout(jax.nn.relu(self.fc6(hidden)), rngs=rngs)
        hidden = self.dropout(jax.nn.relu(self.fc7(hidden)), rngs=rngs)
        logits: jax.Array = self.fc8(hidden)
        return logits


def _check_images(images: Float[Array, "batch height width 3"]) -> None:
    shape = images.shape
    if len(shape) != 4 or shape[3] != 3:
        raise ValueError(f"images must have shape [batch, height, width, 3]; got {shape}")
    if any(side // 32 < _MAP or side // 32 % _MAP for side in shape[1:3]):
        raise ValueError(
            "images must have a height and a width from 224 to 255, from 448 to 479, and so on "
            f"(over 32, rounded down, a multiple of {_MAP}); got {shape[1]} x {shape[2]}"
        )
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images must be floating point, normalised; got {images.dtype}")


def _average_to_map(
    hidden: Float[Array, "batch height width channels"],
) -> Float[Array, "batch 7 7 channels"]:
    """Average equal windows: [batch, 7 a, 7 b, channels] to [batch, 7, 7, channels]."""
    batch, height, width, channels = hidden.shape
    if height == width == _MAP:
        return hidden
    windows = (batch, _MAP, height // _MAP, _MAP, width // _MAP, channels)
    return hidden.reshape(windows).mean(axis=(2, 4))
