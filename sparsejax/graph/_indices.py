"""Fixed indices that slices, gathers and their like read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np


class Read(NamedTuple):
    """The indices of an operand's dimension that one dimension of the result consists of."""

    axis: int
    """The operand's dimension."""
    indices: slice | np.ndarray | None = None
    """A slice, an array of indices within bounds, or None for all of the dimension."""

    def array(self, length: int) -> np.ndarray:
        """Return the indices as an array, given the length of the operand's dimension."""
        if isinstance(self.indices, np.ndarray):
            return self.indices
        return np.arange(length)[self.indices or slice(None)]


def _same_read(one: Read, other: Read) -> bool:
    if isinstance(one.indices, np.ndarray) and isinstance(other.indices, np.ndarray):
        return one.axis == other.axis and np.array_equal(one.indices, other.indices)
    arrays = isinstance(one.indices, np.ndarray) or isinstance(other.indices, np.ndarray)
    return not arrays and one == other


class FixedIndices(NamedTuple):
    """The indices of an operand that a result consists of."""

    reads: tuple[Read, ...]
    """What each dimension of the result is read from."""
    squeezed: dict[int, int]
    """The operand's dimensions that the result does not have, and the index that is read."""

    def same(self, other: FixedIndices) -> bool:
        """Return whether others are the same indices."""
        if self.squeezed != other.squeezed or len(self.reads) != len(other.reads):
            return False
        return all(map(_same_read, self.reads, other.reads))


class ComputedIndices(NamedTuple):
    """The entries that a result may hold when its indices are computed from the inputs."""

    passed: dict[int, int]
    """The result's dimensions that are all of a dimension of the operand, and that dimension."""
    joined: tuple[tuple[int, int, int], ...]
    """Other dimensions of operands (place, axis) that are one of the result."""
    fill: float | None = None
    """What is put in place of entries out of bounds; None if there are none."""


Indices = Mapping[int, FixedIndices]
"""The fixed indices of gathers and dynamic slices by the number of their equation."""
