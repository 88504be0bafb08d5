"""A 2x2 max-pool that trains fast on CPUs, since it saves the position of each maximum."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


@jax.custom_vjp
def max_pool(
    x: Float[Array, "batch height width channels"],
) -> Float[Array, "batch height//2 width//2 channels"]:
    """Max-pool over 2x2 windows with stride 2, without padding.

    A last odd row or column is dropped, as in ``nnx.max_pool(x, (2, 2), (2, 2))``. The gradient of
    a window goes to exactly one entry, the first of its maxima in row-major order. (A mask
    ``x == maximum`` would count ties more than once, and in MNIST's blank borders all four entries
    are equal.)

    On a CPU the backward pass reads the position of each maximum, one byte, instead of searching
    the windows again. Only reverse-mode differentiation is supported, as for every
    ``jax.custom_vjp``.

    Args:
      x: float array [batch, height, width, channels].

    Returns:
      An array [batch, height // 2, width // 2, channels] of the same dtype.
    """
    return _max_pool_lax(x)


def _forward(x: Array) -> tuple[Array, tuple[Array, Array]]:
    def cpu(x: Array) -> tuple[Array, Array]:
        windows = _windows(x)
        first, second = windows[:, :, 0, :, 0], windows[:, :, 0, :, 1]
        third, fourth = windows[:, :, 1, :, 0], windows[:, :, 1, :, 1]
        upper = jnp.maximum(first, second)
        place = (second > first).astype(jnp.uint8)
        place = jnp.where(third > upper, jnp.uint8(2), place)
        place = jnp.where(fourth > jnp.maximum(upper, third), jnp.uint8(3), place)
        return jnp.max(windows, axis=(2, 4)).swapaxes(0, 3), place

    def other(x: Array) -> tuple[Array, Array]:
        batch, height, width, channels = x.shape
        nothing = jnp.zeros((channels, height // 2, width // 2, batch), jnp.uint8)
        return _max_pool_lax(x), nothing

    maxima, place = lax.platform_dependent(x, cpu=cpu, default=other)
    return maxima, (x, place)  # each platform reads one of them; the compiler removes the other


def _backward(residuals: tuple[Array, Array], gradient: Array) -> tuple[Array]:
    def cpu(x: Array, place: Array, gradient: Array) -> Array:
        del x
        return _scatter(place, gradient, odd)

    def other(x: Array, place: Array, gradient: Array) -> Array:
        del place
        of_x: Array = jax.vjp(_max_pool_lax, x)[1](gradient)[0]
        return of_x

    x, place = residuals
    odd = x.shape[1] % 2, x.shape[2] % 2
    return (lax.platform_dependent(x, place, gradient, cpu=cpu, default=other),)


max_pool.defvjp(_forward, _backward)


def _max_pool_lax(x: Array) -> Array:
    window = (1, 2, 2, 1)
    pooled: Array = lax.reduce_window(x, -jnp.inf, lax.max, window, window, "VALID")
    return pooled


def _windows(x: Array) -> Float[Array, "channels height//2 2 width//2 2 batch"]:
    """Windows [channels, height, 2, width, 2, batch], contiguous along the batch."""
    batch, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2].swapaxes(0, 3)
    return x.reshape(channels, height // 2, 2, width // 2, 2, batch)


def _scatter(
    place: Array, gradient: Array, odd: tuple[int, int]
) -> Float[Array, "batch height width channels"]:
    """The gradient at the position of each maximum, zeros elsewhere."""
    corners = jnp.arange(4, dtype=jnp.uint8).reshape(2, 1, 2, 1)

    def scatter(piece: tuple[Array, Array]) -> Array:
        # [rows, width, batch] to [rows, 2, width, 2, batch]
        place, gradient = (part[:, None, :, None] for part in piece)
        return jnp.where(place == corners, gradient, 0)

    # In pieces, because a loop reads its inputs from memory: without it the compiler does not store
    # `place`, but searches each maximum again for each of its four entries.
    channels, height, width, batch = place.shape
    rows = channels * height
    pieces = next((n for n in range(2, rows + 1) if rows % n == 0), 1)
    shape = (pieces, rows // pieces, width, batch)
    windows = lax.map(scatter, (place.reshape(shape), gradient.swapaxes(0, 3).reshape(shape)))
    x = windows.reshape(channels, 2 * height, 2 * width, batch).swapaxes(0, 3)
    return jnp.pad(x, ((0, 0), (0, odd[0]), (0, odd[1]), (0, 0)))
