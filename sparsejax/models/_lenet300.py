"""LeNet300: the fully connected network of LeCun et al. (1998), 784-300-100-10."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from sparsejax.models._sizes import kept_of, sizes_of

_PIXELS = 784
_ACTIVATIONS = {"relu": jax.nn.relu, "tanh": jnp.tanh}

LENET300_LAYERS = ("dense1", "dense2", "dense3")
"""The layers from input to output, for ``sparsejax.inspection.live_units``."""


class LeNet300(nnx.Module):
    """LeNet300: three dense layers, 784-300-100-10, with 266,200 kernel weights and 410 biases.

    The activation follows the first two layers. Kernels are initialised Lecun-normal, biases as
    zeros, all float32.

    Args:
      activation: ``"relu"`` or ``"tanh"`` (the LC toolkit's script uses tanh).
      units: numbers of units of the two hidden layers; smaller ones make a network from which units
        have been removed.
      kept_inputs: the pixels, out of 784, that the first layer reads, for a network from which
        inputs have been removed; row i of its kernel belongs to pixel ``kept_inputs[i]``. Default:
        all.
      rngs: random streams for the initial kernels.

    Raises:
      ValueError: ``activation``, ``units`` or ``kept_inputs`` is not one of the allowed values, or
        an input is given twice.

    References:
      LeCun, Bottou, Bengio and Haffner, Gradient-based learning applied to document recognition,
      Proceedings of the IEEE 86, 1998.
    """

    def __init__(
        self,
        activation: Literal["relu", "tanh"] = "relu",
        units: Sequence[int] = (300, 100),
        kept_inputs: Sequence[int] | None = None,
        *,
        rngs: nnx.Rngs,
    ):
        self.activation = activation_of(activation)
        first, second = sizes_of(units, 2)
        self.kept_inputs = None if kept_inputs is None else kept_of(kept_inputs, _PIXELS)
        inputs = _PIXELS if self.kept_inputs is None else len(self.kept_inputs)
        self.dense1 = nnx.Linear(inputs, first, rngs=rngs)
        self.dense2 = nnx.Linear(first, second, rngs=rngs)
        self.dense3 = nnx.Linear(second, 10, rngs=rngs)

    def __call__(self, images: Float[Array, "batch ..."]) -> Float[Array, "batch 10"]:
        """Compute the logits.

        Args:
          images: float array [batch, 784] or [batch, 28, 28, 1].

        Returns:
          Logits [batch, 10].
        """
        hidden = images.reshape(images.shape[0], -1)
        if self.kept_inputs is not None:
            columns = jnp.asarray(self.kept_inputs)
            hidden = hidden.at[:, columns].get(mode="promise_in_bounds", unique_indices=True)
        hidden = self.activation(self.dense1(hidden))
        hidden = self.activation(self.dense2(hidden))
        logits: jax.Array = self.dense3(hidden)
        return logits


def activation_of(name: str) -> Callable[[jax.Array], jax.Array]:
    """Return the activation function of that name.

    Raises:
      ValueError: there is none.
    """
    if name not in _ACTIVATIONS:
        raise ValueError(f"activation must be one of {sorted(_ACTIVATIONS)}; got {name!r}")
    return _ACTIVATIONS[name]
