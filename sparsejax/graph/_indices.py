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


class FixedIndices(NamedTuple):
    """The indices of an operand that a result consists of."""

    reads: tuple[Read, ...]
    """For each dimension of the result."""
    squeezed: dict[int, int]
    """The operand's dimensions that the result does not have, and the index that is read."""


Indices = Mapping[int, FixedIndices]
"""The fixed indices of gathers and dynamic slices by the number of their equation."""
