"""Alternatives to the projection of sparsejax: selection with JAX, NumPy and PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Working memory in copies of the weights (indices have 64 bits), to avoid running out of memory.
COPIES_NEEDED = {
    "jax.lax.top_k": 6, "jnp.sort": 5, "np.partition": 4, "torch.topk": 8, "torch.kthvalue": 6,
}  # fmt: skip


def with_jax(weights: jax.Array) -> dict[str, Callable[[int], Any]]:
    """Projections with a threshold from ``lax.top_k`` or from a sort."""

    def above(threshold: jax.Array) -> jax.Array:
        return jnp.where(jnp.abs(weights) >= threshold, weights, 0)

    top = jax.jit(lambda w, k: jax.lax.top_k(jnp.abs(w), k)[0][-1], static_argnums=1)
    order = jax.jit(lambda w: jnp.sort(jnp.abs(w)))
    return {
        "jax.lax.top_k": lambda kappa: above(top(weights, kappa)),
        "jnp.sort": lambda kappa: above(order(weights)[-kappa]),
    }


def with_numpy(weights: jax.Array) -> dict[str, Callable[[int], Any]]:
    """Projection with a threshold from ``np.partition``."""
    array = np.asarray(weights)

    def partition(kappa: int) -> np.ndarray:
        magnitudes = np.abs(array)
        threshold = np.partition(magnitudes, len(array) - kappa)[len(array) - kappa]
        return np.where(magnitudes >= threshold, array, np.float32(0))

    return {"np.partition": partition}


def with_torch(weights: jax.Array) -> dict[str, Callable[[int], Any]]:
    """Projections with PyTorch's ``topk`` and ``kthvalue``; none if it is not installed."""
    try:
        import torch
    except ImportError:
        return {}
    tensor = torch.from_dlpack(weights)

    def topk(kappa: int) -> Any:
        chosen = torch.topk(tensor.abs(), kappa, sorted=False).indices
        result = torch.zeros_like(tensor)
        result[chosen] = tensor[chosen]
        return result.numpy()

    def kthvalue(kappa: int) -> Any:
        magnitudes = tensor.abs()
        threshold = torch.kthvalue(magnitudes, len(tensor) - kappa + 1).values
        return torch.where(magnitudes >= threshold, tensor, 0).numpy()

    return {"torch.topk": topk, "torch.kthvalue": kthvalue}
