"""LeNet300: the fully connected network of LeCun et al. (1998), 784-300-100-10."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

LENET300_LAYERS = ("dense1", "dense2", "dense3")
"""The layers from input to output, for ``sparsejax.inspection.live_units``."""


class LeNet300(nnx.Module):
    """Three dense layers, 784-300-100-10: 266,200 kernel weights and 410 biases.

    Kernels start as Lecun-normal, biases as zeros.

    Args:
      activation: ``"relu"`` or ``"tanh"`` (the LC toolkit's script has tanh).
      rngs: for the initial kernels.
    """

    def __init__(self, activation: Literal["relu", "tanh"] = "relu", *, rngs: nnx.Rngs):
        functions = {"relu": jax.nn.relu, "tanh": jnp.tanh}
        if activation not in functions:
            raise ValueError(f"activation must be one of {sorted(functions)}; got {activation!r}")
        self.activation = functions[activation]
        self.dense1 = nnx.Linear(784, 300, rngs=rngs)
        self.dense2 = nnx.Linear(300, 100, rngs=rngs)
        self.dense3 = nnx.Linear(100, 10, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits [batch, 10] of images [batch, 784] or [batch, 28, 28, 1]."""
        hidden = images.reshape(len(images), -1)
        hidden = self.activation(self.dense1(hidden))
        hidden = self.activation(self.dense2(hidden))
        return self.dense3(hidden)
