"""Direct convolution with a sparse kernel: one multiply-add of a shifted image for each weight.

Activations stay in CHWN layout (channels first, batch last) until an operation needs them in their
own layout. The channels of a result may also stay separate arrays: the compiler then fuses the sum
of a channel with its bias, its activation and its pooling, and never stores the map before pooling.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from sparsejax._dtypes import at_least_float32
from sparsejax.graph import ELEMENTWISE, Equation


class Pieces(NamedTuple):
    """A value in CHWN layout, split along its channels."""

    arrays: tuple[jax.Array, ...]
    """Consecutive channels: each [channels, ..., batch]."""
    axis: int
    """Dimension of the value that holds the channels; never 0, which is the batch."""

    def whole(self) -> jax.Array:
        """Return the value in its own layout."""
        together = self.arrays[0] if len(self.arrays) == 1 else jnp.concatenate(self.arrays)
        return jnp.moveaxis(jnp.moveaxis(together, 0, self.axis - 1), -1, 0)


class _Shifted:
    """The padded input of a convolution, sliced for each weight of the kernel."""

    def __init__(self, x: jax.Array, equation: Equation, window: Sequence[int]):
        params = equation.params
        lhs, _, out = params["dimension_numbers"]
        self.strides, self.dilation = params["window_strides"], params["rhs_dilation"]
        images = jnp.transpose(x, (lhs[1], *lhs[2:], lhs[0]))
        config = [(0, 0, 0), *((low, high, 0) for low, high in params["padding"]), (0, 0, 0)]
        # Without the barrier the compiler may recompute its operand for every weight.
        images = lax.optimization_barrier(lax.pad(images, jnp.zeros((), x.dtype), config))
        self.lengths = [
            (length - (size - 1) * gap - 1) // stride + 1
            for length, size, gap, stride in zip(
                images.shape[1:-1], window, self.dilation, self.strides, strict=True
            )
        ]
        self.images, self.axis = images, out[1]
        # The result may have its spatial dimensions in another order.
        self.order = (0, *(1 + place for place in np.argsort(out[2:])), len(out) - 1)

    def at(self, channel: int, *place: int) -> jax.Array:
        """Return the image [..., batch] that a weight of ``channel`` and ``place`` multiplies."""
        cuts = [
            slice(start * gap, start * gap + (length - 1) * stride + 1, stride)
            for start, gap, length, stride in zip(
                place, self.dilation, self.lengths, self.strides, strict=True
            )
        ]
        image: jax.Array = self.images[channel][tuple(cuts)]
        return image

    def pieces(self, arrays: Sequence[jax.Array], dtype: Any) -> Pieces:
        """Return results [1, ..., batch] of one channel each, in the order of the output."""
        turned = (jnp.transpose(array, self.order).astype(dtype) for array in arrays)
        return Pieces(tuple(turned), self.axis)


def direct_convolution(x: jax.Array, weights: np.ndarray, equation: Equation) -> Pieces:
    """Convolve by one multiply-add for each non-zero weight.

    Args:
      x: input of the convolution, in the layout that ``equation`` states.
      weights: [in, out, *window].
      equation: the convolution, of one group.

    Returns:
      The result, each channel in a piece of its own.
    """
    shifted = _Shifted(x, equation, weights.shape[2:])
    dtype = at_least_float32(x)
    channels = []
    for out in range(weights.shape[1]):
        total = jnp.zeros((*shifted.lengths, x.shape[0]), dtype)
        for channel, *place in np.argwhere(weights[:, out]):
            weight = weights[(channel, out, *place)].astype(dtype)
            total = total + shifted.at(channel, *place).astype(dtype) * weight
        channels.append(total[None])
    return shifted.pieces(channels, x.dtype)


def supports(equation: Equation) -> bool:
    """Return whether `direct_convolution` computes this convolution of one group."""
    params = equation.params
    lhs, _, out = params["dimension_numbers"]
    return (
        params["feature_group_count"] == 1
        and all(n == 1 for n in params["lhs_dilation"])
        and all(low >= 0 and high >= 0 for low, high in params["padding"])
        and lhs[0] == out[0] == 0
    )


def concatenate(pieces: Pieces) -> Pieces:
    """Return all channels in one piece, written one after the other.

    XLA for CPUs runs independent operations on several threads, and waking a thread takes longer
    than a channel of one small image. Each write depends on the one before, which prevents that.
    """
    first = pieces.arrays[0]
    total = jnp.zeros((sum(map(len, pieces.arrays)), *first.shape[1:]), first.dtype)
    start = 0
    for array in pieces.arrays:
        total = lax.dynamic_update_slice(total, array, (start, *(0,) * (array.ndim - 1)))
        start += len(array)
    return Pieces((total,), pieces.axis)


def compute(equation: Equation, operands: Sequence[Any], fixed: Sequence[bool]) -> Pieces | None:
    """Compute an equation piece by piece; return None if it needs whole operands."""
    several = [value for value in operands if isinstance(value, Pieces)]
    axis, sizes = several[0].axis, [len(array) for array in several[0].arrays]
    if equation.name in ELEMENTWISE:
        for value, known in zip(operands, fixed, strict=True):
            if isinstance(value, Pieces):
                if value.axis != axis or [len(array) for array in value.arrays] != sizes:
                    return None
            elif not known:
                return None
        arrays: list[jax.Array] = []
        start = 0
        for array in several[0].arrays:
            arguments = [_cut(value, axis, start, len(arrays), array.shape) for value in operands]
            arrays += equation.apply(arguments)
            start += len(array)
        return Pieces(tuple(arrays), axis)
    if equation.name in _POOLS and len(operands) == 1:
        windows = _windows(equation, axis)
        if windows is not None:
            pooled = [_pooled(array, *windows, equation.name) for array in several[0].arrays]
            return Pieces(tuple(pooled), axis)
    return None


def _cut(value: Any, axis: int, start: int, piece: int, shape: tuple[int, ...]) -> jax.Array:
    """Return the channels of an operand that belong to a piece, in the shape of that piece."""
    if isinstance(value, Pieces):
        return value.arrays[piece]
    known = np.asarray(value)
    if known.ndim:
        end = start + shape[0]
        if known.shape[axis] > 1:
            known = known[(slice(None),) * axis + (slice(start, end),)]
        known = np.moveaxis(np.moveaxis(known, axis, 1), 0, -1)
        # One number for each channel is not stored for every position.
        first = known.reshape(len(known), -1)[:, :1]
        if known.size and (known.reshape(len(known), -1) == first).all():
            known = first.reshape(-1, *(1,) * (known.ndim - 1))
    return jnp.broadcast_to(jnp.asarray(known), shape)


_POOLS = {
    "reduce_window_max": jnp.maximum,
    "reduce_window_min": jnp.minimum,
    "reduce_window_sum": jnp.add,
}


def _windows(equation: Equation, axis: int) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Return window and strides of a piece, without the batch; None if windows overlap."""
    params = equation.params
    window, strides = params["window_dimensions"], params["window_strides"]
    if (
        any(map(any, params["padding"]))
        or any(n != 1 for n in (*params["base_dilation"], *params["window_dilation"]))
        or any(size > stride for size, stride in zip(window, strides, strict=True))
        or any(n != 1 for n in (window[0], strides[0], window[axis], strides[axis]))
    ):
        return None
    order = [axis, *(other for other in range(1, len(window)) if other != axis)]
    return tuple(window[i] for i in order), tuple(strides[i] for i in order)


def _pooled(
    piece: jax.Array, window: tuple[int, ...], strides: tuple[int, ...], name: str
) -> jax.Array:
    """Pool elementwise over strided slices, which the compiler fuses with the sums before."""

    def entries(place: tuple[int, ...]) -> jax.Array:
        cuts = [
            slice(at, at + (length - size) // stride * stride + 1, stride)
            for at, length, size, stride in zip(place, piece.shape, window, strides, strict=False)
        ]
        return piece[tuple(cuts)]

    return functools.reduce(_POOLS[name], map(entries, itertools.product(*map(range, window))))
