"""A parameter on its way to the product that reads it: where its entries are, not what they are."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

from sparsejax.graph._indices import FixedIndices


class Piece(NamedTuple):
    """A factor of an axis of a parameter: the digit ``index // stride % length`` of its indices."""

    axis: int
    """The axis of the parameter."""
    stride: int
    """The product of the lengths of the axis' factors after this one."""
    length: int
    """The number of values of the digit."""


class Cut(NamedTuple):
    """A range of the indices of a piece."""

    piece: Piece
    start: int
    length: int


class Fixed(NamedTuple):
    """One index of a piece."""

    piece: Piece
    start: int
    """What is added to the index."""
    entry: Hashable
    """An integer, or what stands for a traced one."""


@dataclasses.dataclass(frozen=True)
class MovedLeaf:
    """A parameter that was reshaped, transposed, sliced or indexed.

    Each dimension holds pieces of the parameter's axes, the outermost first. Lengths of 1 are no
    pieces.
    """

    leaf: int
    """The number of the parameter."""
    shape: tuple[int, ...]
    """The shape of the parameter."""
    dims: tuple[tuple[Piece, ...], ...]
    """The pieces that each dimension holds."""
    cut: tuple[Cut, ...] = ()
    """Pieces of which a range of indices is left."""
    fixed: tuple[Fixed, ...] = ()
    """Pieces of which one index is left."""

    @classmethod
    def whole(cls, leaf: int, shape: Sequence[int]) -> MovedLeaf:
        """Return a parameter that was not moved."""
        dims = tuple((Piece(a, 1, n),) if n != 1 else () for a, n in enumerate(shape))
        return cls(leaf, tuple(shape), dims)

    def reshaped(self, shape: Sequence[int]) -> MovedLeaf | None:
        """Return the parameter in another shape; None if an axis is split at no factor."""
        left = [piece for dim in reversed(self.dims) for piece in reversed(dim)]
        dims = []
        for length in shape:
            dim: list[Piece] = []
            while length != 1:
                if not left:
                    return None
                piece = left.pop()
                if length % piece.length:
                    inner, rest = divmod(piece.length, max(length, 1))
                    if rest or not length:
                        return None
                    left.append(piece._replace(length=inner))
                    piece = Piece(piece.axis, piece.stride * inner, length)
                dim.append(piece)
                length //= piece.length
            dims.append(tuple(merged(dim)))
        return dataclasses.replace(self, dims=tuple(dims))

    def transposed(self, order: Iterable[int]) -> MovedLeaf:
        """Return the parameter with its dimensions in another order."""
        return dataclasses.replace(self, dims=tuple(self.dims[axis] for axis in order))

    def at(self, axis: int, index: Hashable) -> MovedLeaf | None:
        """Return one index of a dimension, which stays with length 1; None if it merges pieces."""
        if len(self.dims[axis]) > 1:
            return None
        found = dataclasses.replace(self, dims=(*self.dims[:axis], (), *self.dims[axis + 1 :]))
        for piece in self.dims[axis]:
            before = self._before(piece)
            cut = tuple(one for one in self.cut if one != before)
            fixed = (*self.fixed, Fixed(before.piece, before.start, index))
            found = dataclasses.replace(found, cut=cut, fixed=fixed)
        return found

    def read(self, indices: FixedIndices) -> MovedLeaf | None:
        """Return fixed indices; None for others than slices, and where pieces are merged."""
        found: MovedLeaf | None = self
        for axis, index in indices.squeezed.items():
            found = found and found.at(axis, index)
        for axis, part in indices.reads:
            if part is None or found is None:
                continue
            length = math.prod(piece.length for piece in self.dims[axis])
            if not isinstance(part, slice) or part.step not in (None, 1):
                return None
            start, stop, _ = part.indices(length)
            if stop - start == 1:
                found = found.at(axis, start)
            elif stop - start != length:
                found = found._between(axis, start, stop)
        return found and found.transposed(axis for axis, _ in indices.reads)

    def _between(self, axis: int, start: int, stop: int) -> MovedLeaf | None:
        if len(self.dims[axis]) != 1 or stop <= start:
            return None
        (piece,) = self.dims[axis]
        before = self._before(piece)
        cut = tuple(one for one in self.cut if one != before)
        cut = (*cut, Cut(before.piece, before.start + start, stop - start))
        left = piece._replace(length=stop - start)
        dims = (*self.dims[:axis], (left,), *self.dims[axis + 1 :])
        return dataclasses.replace(self, dims=dims, cut=cut)

    def _before(self, piece: Piece) -> Cut:
        """Return the range that a piece is of what it was before it was cut."""
        for one in self.cut:
            if one.piece._replace(length=one.length) == piece:
                return one
        return Cut(piece, 0, piece.length)


def merged(pieces: Iterable[Piece]) -> list[Piece]:
    """Return pieces with neighbours merged that are neighbours in the axis, too."""
    found: list[Piece] = []
    for piece in pieces:
        last = found[-1] if found else None
        if last and (last.axis, last.stride) == (piece.axis, piece.stride * piece.length):
            piece = piece._replace(length=last.length * piece.length)
            found.pop()
        found.append(piece)
    return found
