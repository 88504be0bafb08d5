"""The uses of a kernel: which values it is multiplied with, and which of its entries are."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import jax.numpy as jnp

from sparsejax.graph import Equation, Graph, MovedLeaf, Piece
from sparsejax.oneshot._levels import Level


class Traced(NamedTuple):
    """An index that only the running program knows."""

    level: int
    """The number of the level."""
    value: int | None
    """The value of the level; None for the step of its scan."""


class Patches(NamedTuple):
    """The windows that a convolution reads; fields as the parameters of the primitive."""

    image_spec: tuple[int, ...]
    window: tuple[int, ...]
    window_strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    lhs_dilation: tuple[int, ...]
    rhs_dilation: tuple[int, ...]


class Site(NamedTuple):
    """A value that kernels read, and its reading as matrices [batch, rows, inputs]."""

    level: int
    """The number of the level that computes the value."""
    value: int
    patches: Patches | None
    """The windows that a convolution reads: [image, *positions, channel, *window]."""
    shape: tuple[int, ...]
    """The shape of the value or of its windows, with dimensions split as the kernel's axes are."""
    batch: tuple[int, ...]
    """Dimensions of that shape in the order of the kernel's axes."""
    rows: tuple[int, ...]
    inputs: tuple[int, ...]

    def count(self, dimensions: Sequence[int]) -> int:
        """Return the number of entries along some of the dimensions."""
        return math.prod(self.shape[axis] for axis in dimensions)


class Index(NamedTuple):
    """An index of an axis of a kernel."""

    known: int
    """A number."""
    traced: tuple[tuple[int, Traced], ...]
    """Pairs of a stride and an index, whose products are added to it."""


class Use(NamedTuple):
    """A product of a kernel, or of a part of it, with the value of a site."""

    place: tuple[int, ...]
    """The number of the product's equation, after those of the scans around it; places are in the
    order of the computation."""
    site: Site
    batch_axes: frozenset[int]
    """Axes of the kernel along which each entry is multiplied with inputs of its own."""
    input_axes: frozenset[int]
    """Axes that are summed over."""
    indexed: dict[int, Index]
    """Axes of which one index is read."""
    part: Hashable
    """What is read of other axes."""


class UnsupportedError(Exception):
    """A product has no Gram matrix for the kernel; the message says why."""


def use_in_product(level: Level, equation: Equation, operand: int, leaf: MovedLeaf) -> Use:
    """Return the use of a kernel by a product.

    Args:
      level: the level of the product.
      equation: a ``dot_general`` or a ``conv_general_dilated``.
      operand: 0 or 1: which one the kernel is.
      leaf: the kernel.

    Raises:
      UnsupportedError: there is no Gram matrix for each matrix of the kernel.
    """
    graph, value = level.graph, level.same[equation.ins[1 - operand]]
    if jnp.issubdtype(graph.dtypes[value], jnp.complexfloating):
        raise UnsupportedError("its inputs are complex")
    if equation.name == "dot_general":
        summed, batch = equation.params["dimension_numbers"]
        shape, patches = graph.shapes[value], None
        of_batch, of_inputs = (
            list(zip(side[operand], side[1 - operand], strict=True)) for side in (batch, summed)
        )
    else:
        of_batch = []
        of_inputs, shape, patches = _windows(graph, equation, operand)
    pieces_of = {axis: leaf.dims[own] for own, axis in (*of_batch, *of_inputs)}
    split: list[int] = []
    first = []
    for axis, length in enumerate(shape):
        first.append(len(split))
        split += [piece.length for piece in pieces_of.get(axis, ())] or [length]
    batch_axes, batch_places = _kernel_order(leaf, of_batch, first)
    input_axes, input_places = _kernel_order(leaf, of_inputs, first)
    known = {*batch_places, *input_places}
    rows = tuple(place for place in range(len(split)) if place not in known)
    indexed, parts = _fixed(leaf)
    return Use(
        (*level.path, equation.number),
        Site(level.number, value, patches, tuple(split), batch_places, rows, input_places),
        batch_axes,
        input_axes,
        indexed,
        (leaf.cut, parts),
    )


def _kernel_order(
    leaf: MovedLeaf, pairs: Sequence[tuple[int, int]], first: Sequence[int]
) -> tuple[frozenset[int], tuple[int, ...]]:
    """Return the kernel's axes in some dimensions, and the places of their pieces in its order."""
    found: list[tuple[int, int, Piece | None, int]] = []
    for own, axis in pairs:
        pieces = leaf.dims[own]
        found += [(p.axis, -p.stride, p, first[axis] + i) for i, p in enumerate(pieces)]
        if not pieces:
            found.append((-1, 0, None, first[axis]))
    found.sort(key=lambda one: one[:2])
    lengths: dict[int, int] = {}
    for axis, _, piece, _ in found:
        if piece is not None:
            lengths[axis] = lengths.get(axis, 1) * piece.length
    for axis, length in lengths.items():
        if length != leaf.shape[axis]:
            raise UnsupportedError(f"a product reads only a part of its input axis {axis} at once")
    return frozenset(lengths), tuple(place for *_, place in found)


def _fixed(leaf: MovedLeaf) -> tuple[dict[int, Index], Hashable]:
    """Return axes of which one index is read, and the other fixed pieces."""
    indexed, parts = {}, []
    for axis in dict.fromkeys(one.piece.axis for one in leaf.fixed):
        own = [one for one in leaf.fixed if one.piece.axis == axis]
        if math.prod(one.piece.length for one in own) == leaf.shape[axis]:
            known = sum(one.piece.stride * one.start for one in own)
            known += sum(one.piece.stride * one.entry for one in own if isinstance(one.entry, int))
            traced = [(o.piece.stride, o.entry) for o in own if isinstance(o.entry, Traced)]
            traced.sort(key=lambda pair: -pair[0])
            indexed[axis] = Index(known, tuple(traced))
        elif any(isinstance(one.entry, Traced) for one in own):
            raise UnsupportedError(f"a loop reads its axis {axis} in parts")
        else:
            parts += own
    return indexed, tuple(parts)


def _windows(
    graph: Graph, equation: Equation, operand: int
) -> tuple[list[tuple[int, int]], tuple[int, ...], Patches]:
    """Return how a kernel's dimensions meet those of the windows, their shape, and the windows."""
    params = equation.params
    if operand == 0:
        raise UnsupportedError("a convolution reads it as an image")
    if params["feature_group_count"] != 1 or params["batch_group_count"] != 1:
        raise UnsupportedError("a convolution in groups reads it")
    image, kernel, out = params["dimension_numbers"]
    patches = Patches(
        tuple(image),
        tuple(graph.shapes[equation.ins[1]][axis] for axis in kernel[2:]),
        tuple(params["window_strides"]),
        tuple((int(low), int(high)) for low, high in params["padding"]),
        tuple(params["lhs_dilation"]),
        tuple(params["rhs_dilation"]),
    )
    shape = graph.shapes[equation.ins[0]]
    rows = shape[image[0]], *(graph.shapes[equation.outs[0]][axis] for axis in out[2:])
    pairs = [(axis, len(rows) + number) for number, axis in enumerate(kernel[1:])]
    return pairs, (*rows, shape[image[1]], *patches.window), patches
