"""Kernels read as matrices, and their singular values."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from sparsejax._dtypes import at_least_float32
from sparsejax._explicit_axes import cut_like, gathered

SCHEMES = ("channel", "spatial")
Kernels: TypeAlias = tuple[jax.Array, jax.Array]


class Matrices(NamedTuple):
    """A reading of kernels as matrices."""

    scheme: str = "channel"
    stacked: int = 0

    def check(self, path: str, leaf: jax.Array) -> None:
        """Raise ValueError where a leaf cannot be read as a matrix."""
        if self.scheme not in SCHEMES:
            raise ValueError(f"scheme must be one of {SCHEMES}; got {self.scheme!r}")
        if self.stacked < 0 or leaf.ndim - self.stacked not in (2, 4):
            raise ValueError(
                f"{path or 'the leaf'} has shape {leaf.shape}; a kernel must have 2 dimensions "
                f"(dense) or 4 (convolution) after {self.stacked} stacked ones; pass stacked= or "
                "where="
            )

    def of(self, leaf: jax.Array) -> jax.Array:
        """The matrices [..., rows, columns] of a kernel."""
        shape = (*leaf.shape[: self.stacked], *self.shape(leaf))
        if leaf.ndim - self.stacked == 4 and self.scheme == "spatial":
            leaf = jnp.moveaxis(leaf, self.stacked, -2)  # [w, in, h, out]
        return leaf.reshape(shape)

    def shape(self, leaf: jax.Array) -> tuple[int, int]:
        """Rows and columns of the matrix of a kernel."""
        inner = leaf.shape[self.stacked :]
        if len(inner) == 2:
            return inner[0], inner[1]
        height, width, inputs, outputs = inner
        if self.scheme == "channel":
            return height * width * inputs, outputs
        return width * inputs, height * outputs

    def back(self, matrix: Any, shape: tuple[int, ...]) -> Any:
        """The kernel of a matrix of NumPy or JAX, in its own shape."""
        inner = shape[self.stacked :]
        if len(inner) == 4 and self.scheme == "spatial":
            height, width, inputs, outputs = inner
            moved = matrix.reshape(*shape[: self.stacked], width, inputs, height, outputs)
            return moved.swapaxes(-2, -3).swapaxes(-3, -4)  # h before w and in
        return matrix.reshape(shape)

    def kernels(self, left: jax.Array, right: jax.Array, shape: tuple[int, ...]) -> Kernels:
        """The factors of a kernel as those of two layers."""
        if len(shape) == 2:
            return left, right
        height, width, inputs, outputs = shape
        rank = left.shape[-1]
        if self.scheme == "channel":
            return left.reshape(height, width, inputs, rank), right.reshape(1, 1, rank, outputs)
        second = jnp.moveaxis(right.reshape(rank, height, outputs), 0, 1)
        return left.reshape(1, width, inputs, rank), second.reshape(height, 1, rank, outputs)


@functools.partial(jax.jit, static_argnames="matrices")
def truncated(leaf: jax.Array, rank: jax.Array, matrices: Matrices) -> jax.Array:
    """The nearest kernel of a rank; ``rank`` is a scalar or has the shape of the stacked layers."""
    return truncated_to(leaf, lambda s: jnp.asarray(rank), matrices)[0]


def truncated_to(
    leaf: jax.Array, rank_of: Callable[[jax.Array], jax.Array], matrices: Matrices
) -> tuple[jax.Array, jax.Array]:
    """The nearest kernel of the rank that is chosen by its singular values, and the rank.

    ``rank_of`` gets the falling singular values [..., min(m, n)], in float32 or wider.
    """
    u, s, vt = _svd(leaf, matrices)
    rank = rank_of(s)
    kept = jnp.where(jnp.arange(s.shape[-1], dtype=jnp.int32) < rank[..., None], s, 0)
    low = jnp.matmul(u * kept[..., None, :], vt, precision=jax.lax.Precision.HIGHEST)
    whole = rank >= s.shape[-1]
    low = cut_like(matrices.back(low, leaf.shape).astype(leaf.dtype), leaf)
    whole = whole.reshape(whole.shape + (1,) * (leaf.ndim - whole.ndim)) if whole.ndim else whole
    return jnp.where(whole, leaf, low), rank


def factors(
    leaf: jax.Array, width: int, matrices: Matrices, ranks: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    r"""The factors [..., m, width] U sqrt(S) and [..., width, n] sqrt(S) V' of a kernel.

    Where ``ranks`` gives each of the stacked layers its own rank, the rest of its factors is 0.
    """
    u, s, vt = _svd(leaf, matrices)
    root = jnp.sqrt(s[..., :width])
    if ranks is not None:
        root = jnp.where(jnp.arange(width, dtype=jnp.int32) < ranks[..., None], root, 0)
    left = u[..., :width] * root[..., None, :]
    right = root[..., None] * vt[..., :width, :]
    return left.astype(leaf.dtype), right.astype(leaf.dtype)


def _svd(leaf: jax.Array, matrices: Matrices) -> tuple[jax.Array, jax.Array, jax.Array]:
    """U, the falling singular values, and V' of a kernel, in float32 or wider."""
    matrix = matrices.of(gathered(leaf).astype(at_least_float32(leaf)))
    u, s, vt = jnp.linalg.svd(matrix, full_matrices=False)
    return u, s, vt
