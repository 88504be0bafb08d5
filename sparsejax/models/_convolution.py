"""A 2-D convolution that trains fast on CPUs: im2col and matrix products.

On a CPU, XLA's convolution is fast in the forward pass and slow in the backward pass: inside
``lax.scan`` the weight gradient of LeNet5's first layer takes fifty times as long as its forward
pass. Matrix products are fast in both. So the patches of the input are materialised (im2col), and
each of the three convolutions of a training step becomes a matrix product.

Internally the layout is [channels, height, width, batch] (CHWN), in which patches are copied in
contiguous runs over the batch. Between two such layers the compiler cancels the transpositions.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Shaped

Pads = tuple[tuple[int, int], tuple[int, int]]

_NUMBERS = ("NHWC", "HWIO", "NHWC")
_SHORT = 64  # up to this patch size XLA's product is faster with the patches as left operand


def conv_general_dilated(
    lhs: Shaped[Array, "batch ..."],
    rhs: Shaped[Array, "..."],
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
) -> Shaped[Array, "batch ..."]:
    """``jax.lax.conv_general_dilated`` with a faster gradient on CPUs.

    It has the same arguments and computes the same function; pass it to ``nnx.Conv`` as
    ``conv_general_dilated``. It is faster for floating-point 2-D convolutions of images [batch,
    height, width, channels] with kernels [height, width, in, out] of stride 1, without dilation, in
    one group, with any padding. All other convolutions, those on platforms other than the CPU, and
    those that are not differentiated are lax's. The platform is that for which the program is
    lowered.

    The fast convolutions support reverse-mode differentiation (``grad``, ``vjp``, also nested), and
    not forward mode (``jvp``). A compiled training step keeps the patches for the backward pass:
    kernel height x kernel width times the memory of the images.
    """
    if _is_covered(
        lhs, rhs, window_strides, lhs_dilation, rhs_dilation, dimension_numbers,
        feature_group_count, batch_group_count, preferred_element_type, out_sharding,
    ):  # fmt: skip
        pads = padding
        if isinstance(pads, str):
            pads = lax.padtype_to_pads(lhs.shape[1:3], rhs.shape[:2], (1, 1), pads)
        (top, bottom), (left, right) = pads
        explicit = (int(top), int(bottom)), (int(left), int(right))
        if min(map(min, explicit)) >= 0 and min(_map_size(lhs, rhs, explicit)) > 0:
            return _convolve(lhs, rhs, explicit, precision)
    return lax.conv_general_dilated(
        lhs, rhs, window_strides, padding, lhs_dilation, rhs_dilation, dimension_numbers,
        feature_group_count, batch_group_count, precision, preferred_element_type, out_sharding,
    )  # fmt: skip


def _is_covered(
    lhs: Array,
    rhs: Array,
    strides: Sequence[int],
    lhs_dilation: Sequence[int] | None,
    rhs_dilation: Sequence[int] | None,
    numbers: Any,
    groups: int,
    batch_groups: int,
    dtype: Any,
    sharding: Any,
) -> bool:
    """Whether `_convolve` supports all arguments; the padding is not checked."""
    if not (lhs.ndim == rhs.ndim == 4 and lhs.dtype == rhs.dtype and lhs.shape[3] == rhs.shape[2]):
        return False
    channels_last = lax.conv_dimension_numbers(lhs.shape, rhs.shape, _NUMBERS)
    return (
        jnp.issubdtype(lhs.dtype, jnp.floating)
        and lax.conv_dimension_numbers(lhs.shape, rhs.shape, numbers) == channels_last
        and all(n is None or tuple(n) == (1, 1) for n in (strides, lhs_dilation, rhs_dilation))
        and groups == batch_groups == 1
        and dtype in (None, lhs.dtype)
        and sharding is None
        and lhs.size > 0
        and rhs.size > 0
    )


def _map_size(x: Array, kernel: Array, pads: Pads) -> tuple[int, int]:
    """Height and width of the output of the convolution."""
    (top, bottom), (left, right) = pads
    height, width = kernel.shape[:2]
    return x.shape[1] + top + bottom - height + 1, x.shape[2] + left + right - width + 1


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve(x: Array, kernel: Array, pads: Pads, precision: Any) -> Array:
    # Without a gradient lax's convolution is faster for large batches, and stores no patches.
    return _convolve_lax(x, kernel, pads, precision)


def _forward(
    x: Array, kernel: Array, pads: Pads, precision: Any
) -> tuple[Array, tuple[Array, Array]]:
    def cpu(x: Array, kernel: Array) -> Array:
        height, width = _map_size(x, kernel, pads)
        flat = kernel.reshape(-1, kernel.shape[3])
        y = lax.dot_general(flat, _patches(x, kernel, pads), (((0,), (0,)), ((), ())), precision)
        return _swap_batch_and_channels(y.reshape(-1, height, width, x.shape[0]))

    def other(x: Array, kernel: Array) -> Array:
        return _convolve_lax(x, kernel, pads, precision)

    # The backward pass computes the patches again, and the compiler of a whole step merges both
    # computations. As residuals they would have to exist on every platform.
    return lax.platform_dependent(x, kernel, cpu=cpu, default=other), (x, kernel)


def _backward(
    pads: Pads, precision: Any, residuals: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    def cpu(x: Array, kernel: Array, gradient: Array) -> tuple[Array, Array]:
        flat = kernel.reshape(-1, kernel.shape[3])
        gradient = _swap_batch_and_channels(gradient).reshape(kernel.shape[3], -1)
        patches = _patches(x, kernel, pads)
        over_columns = (((1,), (1,)), ((), ()))
        if len(patches) <= _SHORT:
            of_kernel = lax.dot_general(patches, gradient, over_columns, precision)
        else:
            of_kernel = lax.dot_general(gradient, patches, over_columns, precision)
            # Without the barrier the compiler swaps the operands to avoid this transposition.
            of_kernel = lax.optimization_barrier(of_kernel).T
        of_patches = lax.dot(flat, gradient, precision=precision)
        return _sum_patches(of_patches, x, kernel, pads), of_kernel.reshape(kernel.shape)

    def other(x: Array, kernel: Array, gradient: Array) -> tuple[Array, Array]:
        convolve = functools.partial(_convolve_lax, pads=pads, precision=precision)
        gradients: tuple[Array, Array] = jax.vjp(convolve, x, kernel)[1](gradient)
        return gradients

    both: tuple[Array, Array] = lax.platform_dependent(*residuals, gradient, cpu=cpu, default=other)
    return both


_convolve.defvjp(_forward, _backward)


def _convolve_lax(x: Array, kernel: Array, pads: Pads, precision: Any) -> Array:
    return lax.conv_general_dilated(
        x, kernel, (1, 1), pads, dimension_numbers=_NUMBERS, precision=precision
    )


def _patches(x: Array, kernel: Array, pads: Pads) -> Array:
    """[kernel height * kernel width * channels, height * width * batch]."""
    height, width = _map_size(x, kernel, pads)
    rows, columns, channels, _ = kernel.shape
    x = jnp.pad(_swap_batch_and_channels(x), ((0, 0), *pads, (0, 0)))
    # In two steps, so that most copies are of contiguous rows.
    x = jnp.stack([x[:, :, left : left + width] for left in range(columns)])
    x = jnp.stack([x[:, :, top : top + height] for top in range(rows)])
    return x.reshape(rows * columns * channels, -1)


def _sum_patches(patches: Array, x: Array, kernel: Array, pads: Pads) -> Array:
    """The transpose of `_patches`: for each entry of ``x`` the sum over its patches."""
    height, width = _map_size(x, kernel, pads)
    rows, columns, channels, _ = kernel.shape
    batch = x.shape[0]
    patches = patches.reshape(rows, columns, channels, height, width, batch)
    total = jnp.zeros((channels, height + rows - 1, width + columns - 1, batch), x.dtype)
    # In-place sums: adding padded arrays, as autodiff would, takes several times as long.
    for at in itertools.product(range(rows), range(columns)):
        there = lax.dynamic_slice(total, (0, *at, 0), (channels, height, width, batch))
        total = lax.dynamic_update_slice(total, there + patches[at], (0, *at, 0))
    (top, bottom), (left, right) = pads
    total = total[:, top : total.shape[1] - bottom, left : total.shape[2] - right]
    return _swap_batch_and_channels(total)


def _swap_batch_and_channels(x: Array) -> Array:
    return jnp.swapaxes(x, 0, 3)
