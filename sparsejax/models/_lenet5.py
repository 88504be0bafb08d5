"""LeNet5: the convolutional network after LeCun et al. (1998), 20-50-800-500-10."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from sparsejax.models._convolution import conv_general_dilated
from sparsejax.models._max_pool import max_pool
from sparsejax.models._sizes import kept_of, sizes_of

_SIDE = 28  # height and width of an image
_MAP = 4  # height and width of the map that the first dense layer reads

LENET5_LAYERS = ("conv1", "conv2", "dense1", "dense2")
"""The layers from input to output, for ``sparsejax.inspection.live_units``."""


class LeNet5(nnx.Module):
    """LeNet5, 20-50-500-10: two 5x5 convolutions and two dense layers.

    It has 430,500 kernel weights and 580 biases. The convolutions have stride 1 and no padding
    (``VALID``); a 2x2 max-pool with stride 2 and then ReLU follow each of them, so that the maps
    are 12x12 and 4x4. (ReLU before the pool is the same function at four times the work.) The last
    map [batch, 4, 4, 50] is flattened channels last: input ``(row * 4 + column) * 50 + channel`` of
    the first dense layer. ReLU follows that layer, too. Kernels are initialised Lecun-normal,
    biases as zeros, all float32.

    On CPUs convolutions and pooling have custom gradients, so only reverse-mode differentiation
    (``grad``) is supported, and training is fastest with tens of steps per call.

    Args:
      units: channels of the two convolutions and units of the hidden dense layer; smaller numbers
        make a network from which units have been removed.
      kept_inputs: the inputs, out of ``16 * units[1]`` flattened ones, that the first dense layer
        reads, for a network from which single inputs have been removed; row i of its kernel belongs
        to input ``kept_inputs[i]``. Default: all. (``live_units`` supports only the default.)
      rngs: random streams for the initial kernels.

    Raises:
      ValueError: ``units`` or ``kept_inputs`` is out of range, or an input is given twice.

    References:
      LeCun, Bottou, Bengio and Haffner, Gradient-based learning applied to document recognition,
      Proceedings of the IEEE 86, 1998.
    """

    def __init__(
        self,
        units: Sequence[int] = (20, 50, 500),
        kept_inputs: Sequence[int] | None = None,
        *,
        rngs: nnx.Rngs,
    ):
        first, second, hidden = sizes_of(units, 3)
        flattened = _MAP * _MAP * second
        self.kept_inputs = None if kept_inputs is None else kept_of(kept_inputs, flattened)
        inputs = flattened if self.kept_inputs is None else len(self.kept_inputs)
        self.conv1 = _conv(1, first, rngs)
        self.conv2 = _conv(first, second, rngs)
        self.dense1 = nnx.Linear(inputs, hidden, rngs=rngs)
        self.dense2 = nnx.Linear(hidden, 10, rngs=rngs)

    def __call__(self, images: Float[Array, "batch ..."]) -> Float[Array, "batch 10"]:
        """Compute the logits.

        Args:
          images: float array [batch, 28, 28, 1] or [batch, 784].

        Returns:
          Logits [batch, 10].

        Raises:
          ValueError: the images have a different shape, or are not floating point.
        """
        if images.shape[1:] not in ((_SIDE, _SIDE, 1), (_SIDE * _SIDE,)):
            raise ValueError(
                f"images must have shape [batch, 28, 28, 1] or [batch, 784]; got {images.shape}"
            )
        if not jnp.issubdtype(images.dtype, jnp.floating):
            raise ValueError(f"images must be floating point, normalised; got {images.dtype}")
        hidden = images.reshape(-1, _SIDE, _SIDE, 1)
        hidden = jax.nn.relu(max_pool(self.conv1(hidden)))
        hidden = jax.nn.relu(max_pool(self.conv2(hidden)))
        hidden = hidden.reshape(hidden.shape[0], -1)
        if self.kept_inputs is not None:
            columns = jnp.asarray(self.kept_inputs)
            hidden = hidden.at[:, columns].get(mode="promise_in_bounds", unique_indices=True)
        logits: jax.Array = self.dense2(jax.nn.relu(self.dense1(hidden)))
        return logits


def _conv(inputs: int, outputs: int, rngs: nnx.Rngs) -> nnx.Conv:
    return nnx.Conv(
        inputs, outputs, (5, 5),
        padding="VALID", conv_general_dilated=conv_general_dilated, rngs=rngs,
    )  # fmt: skip
