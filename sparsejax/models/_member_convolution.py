"""Convolutions whose ``vmap`` writes those of the members side by side.

``vmap`` over kernels makes one convolution in groups. On a GPU and on a CPU it takes longer than
the members' own convolutions one after another. Here ``vmap`` writes these out instead, or makes
one convolution of them where the members share their input (as in the first layer of a network
whose members see the same batch) or their kernel.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Shaped

Product = Callable[[Array, Array], Array]
Joins = Mapping[tuple[bool, bool], tuple[int, int]]


class Geometry(NamedTuple):
    """The parameters of a convolution of one group besides its two operands; hashable."""

    image: tuple[int, ...]
    """The spatial shape of the input."""
    window: tuple[int, ...]
    """The spatial shape of the kernel."""
    strides: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    lhs_dilation: tuple[int, ...]
    rhs_dilation: tuple[int, ...]
    numbers: lax.ConvDimensionNumbers
    precision: Any

    def shape(
        self, spec: Sequence[int], batch: int, features: int, kernel: bool
    ) -> tuple[int, ...]:
        """Return the shape of an input, or of a kernel, whose dimensions are in ``spec``."""
        lengths = (batch, features, *(self.window if kernel else self.image))
        shape = [0] * len(spec)
        for axis, length in zip(spec, lengths, strict=True):
            shape[axis] = length
        return tuple(shape)


class Products(NamedTuple):
    """The three products of a convolution, each bilinear in two arrays."""

    output: Product
    """(x, kernel) -> y."""
    output_in_training: Product
    """The same, where its gradients are wanted, too."""
    of_x: Product
    """(kernel, gradient of y) -> gradient of x."""
    of_kernel: Product
    """(x, gradient of y) -> gradient of the kernel."""


def convolution_of(products: Callable[[Geometry], Products]) -> Callable[..., Array]:
    """Return a function like ``jax.lax.conv_general_dilated`` that computes by given products.

    It has the same arguments and computes the same function; pass it to ``nnx.Conv`` as
    ``conv_general_dilated``. Convolutions of one group, in one floating-point dtype, support
    reverse-mode differentiation (``grad``, ``vjp``, also nested), and not forward mode (``jvp``);
    all others are lax's. ``vmap`` does not turn them into groups: the members' convolutions are
    written out, so a program grows with them; where the compiler partitions the axis of members
    over devices (``jit`` without ``shard_map``), they move between these.
    """

    def conv_general_dilated(
        lhs: Shaped[Array, "..."],
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
    ) -> Shaped[Array, "..."]:
        arguments = (
            lhs, rhs, window_strides, padding, lhs_dilation, rhs_dilation, dimension_numbers,
            feature_group_count, batch_group_count, precision, preferred_element_type, out_sharding,
        )  # fmt: skip
        geometry = geometry_of(*arguments)
        if geometry is not None:
            return convolution(geometry, products)(lhs, rhs)
        return lax.conv_general_dilated(*arguments)

    return conv_general_dilated


def geometry_of(
    lhs: Array,
    rhs: Array,
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None,
    rhs_dilation: Sequence[int] | None,
    dimension_numbers: Any,
    groups: int,
    batch_groups: int,
    precision: Any,
    dtype: Any,
    sharding: Any,
) -> Geometry | None:
    """Return the geometry of a convolution; None for one that is left to lax."""
    fits = (
        lhs.ndim == rhs.ndim >= 2
        and lhs.dtype == rhs.dtype
        and jnp.issubdtype(lhs.dtype, jnp.floating)
        and groups == batch_groups == 1
        and dtype in (None, lhs.dtype)
        and sharding is None
        and lhs.size > 0
        and rhs.size > 0
    )
    if not fits:
        return None
    numbers = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    image = tuple(lhs.shape[axis] for axis in numbers.lhs_spec[2:])
    window = tuple(rhs.shape[axis] for axis in numbers.rhs_spec[2:])
    if lhs.shape[numbers.lhs_spec[1]] != rhs.shape[numbers.rhs_spec[1]]:
        return None
    ones = (1,) * len(image)
    of_x, of_kernel = tuple(lhs_dilation or ones), tuple(rhs_dilation or ones)
    if isinstance(padding, str):
        dilated = [(n - 1) * step + 1 for n, step in zip(window, of_kernel, strict=True)]
        padded = [(n - 1) * step + 1 for n, step in zip(image, of_x, strict=True)]
        padding = lax.padtype_to_pads(padded, dilated, strides, padding)
    pads = tuple((int(low), int(high)) for low, high in padding)
    return Geometry(image, window, tuple(strides), pads, of_x, of_kernel, numbers, precision)


def lax_products(geometry: Geometry) -> Products:
    """Return the products that lax computes."""
    _, _, strides, pads, lhs_dilation, rhs_dilation, numbers, precision = geometry

    def output(x: Array, kernel: Array) -> Array:
        return lax.conv_general_dilated(
            x, kernel, strides, pads, lhs_dilation, rhs_dilation, numbers, precision=precision
        )

    def of_x(kernel: Array, gradient: Array) -> Array:
        batch = gradient.shape[numbers.out_spec[0]]
        channels = kernel.shape[numbers.rhs_spec[1]]
        shape = geometry.shape(numbers.lhs_spec, batch, channels, kernel=False)
        x = lax.full_like(gradient, 0, shape=shape)  # not computed, only its type is used
        (found,) = jax.linear_transpose(lambda x: output(x, kernel), x)(gradient)
        return jnp.asarray(found)

    def of_kernel(x: Array, gradient: Array) -> Array:
        written = gradient.shape[numbers.out_spec[1]]
        read = x.shape[numbers.lhs_spec[1]]
        shape = geometry.shape(numbers.rhs_spec, written, read, kernel=True)
        kernel = lax.full_like(gradient, 0, shape=shape)
        (found,) = jax.linear_transpose(lambda kernel: output(x, kernel), kernel)(gradient)
        return jnp.asarray(found)

    return Products(output, output, of_x, of_kernel)


conv_general_dilated = convolution_of(lax_products)
"""``jax.lax.conv_general_dilated``, which ``vmap`` does not turn into groups."""


@functools.lru_cache(maxsize=256)
def convolution(geometry: Geometry, make: Callable[[Geometry], Products]) -> Product:
    """Return ``(x, kernel) -> y`` with the given products, differentiable in reverse mode.

    The gradients of the three products are again these products, so derivatives nest.
    """
    numbers, plain = geometry.numbers, make(geometry)
    (x_batch, _), (out_features, _) = numbers.lhs_spec[:2], numbers.rhs_spec[:2]
    y_batch, y_features = numbers.out_spec[:2]
    # Members that share one operand make one product: they are more examples, or more channels.
    forward: Joins = {(True, False): (x_batch, y_batch), (False, True): (out_features, y_features)}
    output = side_by_side(plain.output, forward)
    output_in_training = side_by_side(plain.output_in_training, forward)
    of_x = side_by_side(plain.of_x, {(False, True): (y_batch, x_batch)})
    of_kernel = side_by_side(plain.of_kernel, {(False, True): (y_features, out_features)})

    @jax.custom_vjp
    def convolve(x: Array, kernel: Array) -> Array:
        return output(x, kernel)

    @jax.custom_vjp
    def convolve_in_training(x: Array, kernel: Array) -> Array:
        return output_in_training(x, kernel)

    @jax.custom_vjp
    def convolve_back(kernel: Array, gradient: Array) -> Array:
        return of_x(kernel, gradient)

    @jax.custom_vjp
    def correlate(x: Array, gradient: Array) -> Array:
        return of_kernel(x, gradient)

    def keeping(product: Any) -> Any:
        return lambda *operands: (product(*operands), operands)

    # What a forward rule calls is differentiated when derivatives nest, so it has a rule, too.
    for function in (convolve, convolve_in_training):
        function.defvjp(
            keeping(convolve_in_training),
            lambda operands, g: (convolve_back(operands[1], g), correlate(operands[0], g)),
        )
    convolve_back.defvjp(
        keeping(convolve_back),
        lambda operands, g: (correlate(g, operands[1]), convolve(g, operands[0])),
    )
    correlate.defvjp(
        keeping(correlate),
        lambda operands, g: (convolve_back(g, operands[1]), convolve(operands[0], g)),
    )

    def alike(x: Array, kernel: Array) -> Array:
        # Inside ``shard_map`` an operand that is the same on all devices has a gradient that is
        # summed over them; custom derivatives leave that to what is before them.
        varying = [jax.typeof(operand).manual_axis_type.varying for operand in (x, kernel)]
        x = lax.pcast(x, tuple(varying[1] - varying[0]), to="varying")
        kernel = lax.pcast(kernel, tuple(varying[0] - varying[1]), to="varying")
        found: Array = convolve(x, kernel)
        return found

    return alike


def side_by_side(product: Product, joins: Joins) -> Product:
    """Let ``vmap`` write out a product of each member, or join those that share an operand.

    Args:
      product: a function of two arrays.
      joins: by which of both operands have members: the dimension of that operand, and of the
        result, along which members may follow one another.

    Returns:
      The product. ``vmap`` may be nested.
    """
    mapped: Any = jax.custom_batching.custom_vmap(product)

    def rule(size: int, batched: Sequence[bool], *operands: Array) -> tuple[Array, bool]:
        has_members = (bool(batched[0]), bool(batched[1]))
        if has_members in joins:
            axis, result_axis = joins[has_members]
            joined = (
                _join(operand, axis) if has else operand
                for operand, has in zip(operands, has_members, strict=True)
            )
            return _separate(mapped(*joined), result_axis, size), True
        results = [
            mapped(*(x[n] if has else x for x, has in zip(operands, has_members, strict=True)))
            for n in range(size)
        ]
        return jnp.stack(results), True

    mapped.def_vmap(rule)
    written: Product = mapped
    return written


def _join(array: Array, axis: int) -> Array:
    """Put the first dimension in front of another one, and merge both."""
    moved = jnp.moveaxis(array, 0, axis)
    return moved.reshape(*moved.shape[:axis], -1, *moved.shape[axis + 2 :])


def _separate(array: Array, axis: int, members: int) -> Array:
    parted = array.reshape(*array.shape[:axis], members, -1, *array.shape[axis + 1 :])
    return jnp.moveaxis(parted, axis, 0)
