"""Units that put out the same number for every input, and that number.

A value is either fixed (computed from parameters alone) and known in full, or computed from the
inputs. For a computed value it is known, for each dimension, at which indices all entries are one
number. Nothing is recorded along dimensions that depend on the batch size, and no number that does,
so the result holds for every batch size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from sparsejax.graph._contraction import Weights, narrow, widest
from sparsejax.graph._indices import FixedIndices
from sparsejax.graph._product import Product


class ConstantUnits(NamedTuple):
    """The indices of a dimension at which a value is constant, and its number there."""

    mask: np.ndarray
    """Booleans."""
    numbers: np.ndarray
    """The numbers, in the value's dtype; undefined where ``mask`` is false."""

    def take(self, indices: Any) -> ConstantUnits:
        """Return the units at an index, a slice or an array of indices."""
        return ConstantUnits(self.mask[indices], self.numbers[indices])

    def zeros(self) -> ConstantUnits:
        """Return only the units that are constantly zero."""
        return self._replace(mask=self.mask & (self.numbers == 0))

    def times(self, count: int) -> ConstantUnits:
        """Return the units of a sum of ``count`` equal numbers."""
        numbers = self.numbers.astype(widest(self.numbers.dtype)) * count
        return ConstantUnits(self.mask, narrow(numbers, self.numbers.dtype))

    def broadcast(self, length: int) -> ConstantUnits:
        """Return the units of a dimension of length 1 that is broadcast."""
        return ConstantUnits(*(np.broadcast_to(array, length) for array in self))

    def with_zeros(self, where: np.ndarray) -> ConstantUnits:
        """Return the units with constant zeros added where a mask is true."""
        zero = np.zeros((), self.numbers.dtype)
        new = where & ~self.mask
        return ConstantUnits(self.mask | new, np.where(new, zero, self.numbers))


AxisConstants = Mapping[int, ConstantUnits]
"""The constant units of a computed value by dimension; a missing dimension has none."""


class Constants(NamedTuple):
    """The constants of a graph."""

    units: dict[int, AxisConstants]
    """The constant units of computed values."""
    weights: dict[int, Weights]
    """The weights of contractions, by the equation's number."""
    indices: dict[int, FixedIndices]
    """The indices of gathers and dynamic slices at fixed indices, by the equation's number."""
    products: dict[int, list[Product]]
    """Where the factors of other products may be different from zero, by the equation's number."""
    reduced: dict[int, dict[int, np.ndarray]]
    """The units that change the results of reductions, by the equation's number and by dimension
    of the operand."""
