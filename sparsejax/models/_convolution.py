"""A 2-D convolution that trains fast on CPUs: im2col and matrix products.

On a CPU, XLA's convolution is fast in the forward pass and slow in the backward pass: inside
``lax.scan`` the weight gradient of LeNet5's first layer takes fifty times as long as its forward
pass. Matrix products are fast in both. So the patches of the input are materialised (im2col), and
each of the three convolutions of a training step becomes a matrix product.

Internally the layout is [channels, height, width, batch] (CHWN), in which patches are copied in
contiguous runs over the batch. Between two such layers the compiler cancels the transpositions.
"""

from __future__ import annotations

import itertools

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from sparsejax.models._member_convolution import (
    Geometry,
    Products,
    convolution_of,
    lax_products,
)

_CHANNELS_LAST = lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
_SHORT = 64  # up to this patch size XLA's product is faster with the patches as left operand


def _is_covered(geometry: Geometry) -> bool:
    """Whether the products may be those of patches."""
    once = {geometry.strides, geometry.lhs_dilation, geometry.rhs_dilation} == {(1, 1)}
    return (
        once
        and geometry.numbers == _CHANNELS_LAST
        and all(pad >= 0 for pads in geometry.pads for pad in pads)
        and min(_map_size(geometry)) > 0
    )


def _map_size(geometry: Geometry) -> tuple[int, int]:
    """Height and width of the output of the convolution."""
    (top, bottom), (left, right) = geometry.pads
    (rows, columns), (height, width) = geometry.window, geometry.image
    return height + top + bottom - rows + 1, width + left + right - columns + 1


def _im2col_products(geometry: Geometry) -> Products:
    """Return the products: on a CPU those of patches, elsewhere and without a gradient lax's."""
    plain, precision = lax_products(geometry), geometry.precision
    height, width = _map_size(geometry)

    def output(x: Array, kernel: Array) -> Array:
        flat = kernel.reshape(-1, kernel.shape[3])
        y = lax.dot_general(flat, _patches(x, geometry), (((0,), (0,)), ((), ())), precision)
        return _swap_batch_and_channels(y.reshape(-1, height, width, x.shape[0]))

    def of_x(kernel: Array, gradient: Array) -> Array:
        flat = kernel.reshape(-1, kernel.shape[3])
        columns = _swap_batch_and_channels(gradient).reshape(kernel.shape[3], -1)
        return _sum_patches(lax.dot(flat, columns, precision=precision), geometry)

    def of_kernel(x: Array, gradient: Array) -> Array:
        # The patches are computed again, and the compiler of a whole step merges both computations.
        # As residuals they would have to exist on every platform.
        patches = _patches(x, geometry)
        columns = _swap_batch_and_channels(gradient).reshape(gradient.shape[3], -1)
        over_columns = (((1,), (1,)), ((), ()))
        if len(patches) <= _SHORT:
            found = lax.dot_general(patches, columns, over_columns, precision)
        else:
            found = lax.dot_general(columns, patches, over_columns, precision)
            # Without the barrier the compiler swaps the operands to avoid this transposition.
            found = lax.optimization_barrier(found).T
        return found.reshape(*geometry.window, x.shape[3], gradient.shape[3])

    # Without a gradient lax's convolution is faster for large batches, and stores no patches.
    return Products(
        plain.output,
        lambda x, kernel: lax.platform_dependent(x, kernel, cpu=output, default=plain.output),
        lambda kernel, g: lax.platform_dependent(kernel, g, cpu=of_x, default=plain.of_x),
        lambda x, g: lax.platform_dependent(x, g, cpu=of_kernel, default=plain.of_kernel),
    )


def _products(geometry: Geometry) -> Products:
    return (_im2col_products if _is_covered(geometry) else lax_products)(geometry)


conv_general_dilated = convolution_of(_products)
"""``jax.lax.conv_general_dilated`` with a faster gradient on CPUs, and no groups in ``vmap``.

It is faster for floating-point 2-D convolutions of images [batch, height, width, channels] with
kernels [height, width, in, out] of stride 1, without dilation, in one group, with any padding. All
other convolutions, those on platforms other than the CPU, and those that are not differentiated are
lax's. The platform is that for which the program is lowered. A compiled training step keeps the
patches for the backward pass: kernel height x kernel width times the memory of the images.
"""


def _patches(x: Array, geometry: Geometry) -> Array:
    """[kernel height * kernel width * channels, height * width * batch]."""
    height, width = _map_size(geometry)
    rows, columns = geometry.window
    channels = x.shape[3]
    x = jnp.pad(_swap_batch_and_channels(x), ((0, 0), *geometry.pads, (0, 0)))
    # In two steps, so that most copies are of contiguous rows.
    x = jnp.stack([x[:, :, left : left + width] for left in range(columns)])
    x = jnp.stack([x[:, :, top : top + height] for top in range(rows)])
    return x.reshape(rows * columns * channels, -1)


def _sum_patches(patches: Array, geometry: Geometry) -> Array:
    """The transpose of `_patches`: for each entry of the images the sum over its patches."""
    height, width = _map_size(geometry)
    rows, columns = geometry.window
    channels = len(patches) // (rows * columns)
    patches = patches.reshape(rows, columns, channels, height, width, -1)
    batch = patches.shape[5]
    total = jnp.zeros((channels, height + rows - 1, width + columns - 1, batch), patches.dtype)
    # In-place sums: adding padded arrays, as autodiff would, takes several times as long.
    for at in itertools.product(range(rows), range(columns)):
        there = lax.dynamic_slice(total, (0, *at, 0), (channels, height, width, batch))
        total = lax.dynamic_update_slice(total, there + patches[at], (0, *at, 0))
    (top, bottom), (left, right) = geometry.pads
    total = total[:, top : total.shape[1] - bottom, left : total.shape[2] - right]
    return _swap_batch_and_channels(total)


def _swap_batch_and_channels(x: Array) -> Array:
    return jnp.swapaxes(x, 0, 3)
