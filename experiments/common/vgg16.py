"""VGG-16 for ImageNet, with published weights or random ones."""

from __future__ import annotations

import os
from typing import Any

import jax
from flax import nnx

from sparsejax.models import VGG16, load_vgg16_weights

_CLASSES = 1000


def imagenet_vgg16(
    width: float, seed: int, weights: str | os.PathLike[str] | None
) -> tuple[Any, Any, Any]:
    """The graph, the parameters, and the rest, as ``nnx.split`` gives them.

    Args:
      width: multiplier of channels and hidden units.
      seed: of random weights.
      weights: a safetensors file of published ones; None for random ones.
    """

    def build() -> VGG16:
        # This generator compiles in a third of the time that the default one takes.
        key = jax.random.key(seed, impl="rbg")
        return VGG16(_CLASSES, width, rngs=nnx.Rngs(key))

    if weights is None:
        return nnx.split(build(), nnx.Param, ...)
    graph, shapes, rest = nnx.split(nnx.eval_shape(build), nnx.Param, ...)
    return graph, load_vgg16_weights(shapes, weights), rest
