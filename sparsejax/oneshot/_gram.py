"""Gram matrices, of which the upper triangle is computed and summed in strips."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from sparsejax.oneshot._uses import Patches, Site

_STRIPS = 4  # the products of 4 strips take 10/16 of the operations of the whole matrix
_WIDTH = 128  # narrower strips gain nothing


class Sums(NamedTuple):
    """Sums of Gram matrices and of numbers of rows."""

    strips: tuple[Float[Array, "*batch strip inputs"], ...]
    """Rows of the matrices, each from its diagonal entry's strip to the right end."""
    rows: Float[Array, "*batch"]


def _bounds(inputs: int) -> list[tuple[int, int]]:
    """Return the first and last row of each strip."""
    count = max(1, min(_STRIPS, inputs // _WIDTH))
    ends = [inputs * number // count for number in range(count + 1)]
    return list(itertools.pairwise(ends))


def empty(batch: Sequence[int], inputs: int, dtype: Any) -> Sums:
    """Return sums of nothing."""
    shapes = [(*batch, end - start, inputs - start) for start, end in _bounds(inputs)]
    return Sums(tuple(jnp.zeros(shape, dtype) for shape in shapes), jnp.zeros(batch, dtype))


def gram(value: jax.Array, site: Site, dtype: Any) -> Sums:
    r"""Return the Gram matrices of a site.

    .. math:: G_b = \sum_n x_{bn} x_{bn}^\top
    """
    x = value if site.patches is None else windows(value, site.patches)
    x = x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(dtype)
    order = (*site.batch, *site.rows, *site.inputs)
    batch = tuple(site.shape[axis] for axis in site.batch)
    x = x.reshape(site.shape).transpose(order)
    x = x.reshape((*batch, site.count(site.rows), site.count(site.inputs)))
    rank = x.ndim
    numbers = (((rank - 2,), (rank - 2,)), (tuple(range(rank - 2)),) * 2)
    strips = tuple(
        lax.dot_general(
            x[..., start:end],
            x[..., start:],
            numbers,
            precision=lax.Precision.HIGHEST,
            preferred_element_type=dtype,
        )
        for start, end in _bounds(x.shape[-1])
    )
    return Sums(strips, jnp.full(batch, x.shape[-2], dtype))


def added(sums: Sums, more: Sums, index: Sequence[Any]) -> Sums:
    """Add to the entries at an index, which has one number or None (for all) for each dimension."""
    if not index or all(one is None for one in index):
        return Sums(*jax.tree.map(jnp.add, tuple(sums), tuple(more)))
    axes = [axis for axis, one in enumerate(index) if one is not None]

    def add(array: jax.Array, other: jax.Array) -> jax.Array:
        # Slices are updated in place, in a loop too; a scatter would not be.
        starts = [jnp.zeros((), jnp.int32)] * array.ndim
        sizes = list(array.shape)
        for axis in axes:
            starts[axis], sizes[axis] = jnp.asarray(index[axis], jnp.int32), 1
        here = lax.dynamic_slice(array, starts, sizes)
        return lax.dynamic_update_slice(array, here + lax.expand_dims(other, axes), starts)

    return Sums(*jax.tree.map(add, tuple(sums), tuple(more)))


@jax.jit
def whole(strips: tuple[jax.Array, ...]) -> jax.Array:
    """Return the symmetric matrices of their upper strips."""
    inputs = strips[0].shape[-1]
    bounds = _bounds(inputs)
    rows = []
    for number, (start, end) in enumerate(bounds):
        left = [
            jnp.swapaxes(above[..., start - first : end - first], -1, -2)
            for above, (first, _) in zip(strips[:number], bounds, strict=False)
        ]
        middle = strips[number][..., : end - start]
        upper = jnp.triu(middle)
        middle = upper + jnp.swapaxes(jnp.triu(middle, 1), -1, -2)
        rows.append(jnp.concatenate([*left, middle, strips[number][..., end - start :]], axis=-1))
    return jnp.concatenate(rows, axis=-2)


def windows(image: jax.Array, patches: Patches) -> jax.Array:
    """Return the windows [image, *positions, channel, *window] that a convolution reads.

    They are cut from the padded image, so that no product rounds them.
    """
    image = image.transpose(patches.image_spec)
    config = [(0, 0, 0)] * 2 + [
        (low, high, dilation - 1)
        for (low, high), dilation in zip(patches.padding, patches.lhs_dilation, strict=True)
    ]
    padded = lax.pad(image, jnp.zeros((), image.dtype), config)
    found = []
    spans = list(zip(padded.shape[2:], patches.window, patches.rhs_dilation,
                     patches.window_strides, strict=True))  # fmt: skip
    counts = [(n - (k - 1) * d - 1) // s + 1 for n, k, d, s in spans]
    for offset in itertools.product(*map(range, patches.window)):
        starts = [o * d for o, (_, _, d, _) in zip(offset, spans, strict=True)]
        limits = [b + (c - 1) * s + 1 for b, c, (*_, s) in zip(starts, counts, spans, strict=True)]
        found.append(
            lax.slice(
                padded,
                (0, 0, *starts),
                (*padded.shape[:2], *limits),
                (1, 1, *patches.window_strides),
            )
        )
    stacked = jnp.stack(found, axis=-1)  # [image, channel, *positions, window]
    moved = jnp.moveaxis(stacked, 1, -2)
    return moved.reshape((*moved.shape[:-1], *patches.window))
