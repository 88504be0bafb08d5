"""The non-zero blocks of the factors of a product."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Factor(NamedTuple):
    """The indices at which one factor of a product may differ from zero.

    Its dimensions are those of the batch, the free ones and those that are summed over. A known
    factor is described by its entries, and a computed one by the units of each dimension at which
    it is constantly zero.
    """

    nonzero: np.ndarray | None
    """Booleans [*batch, *free, *summed] of a known factor; None for a computed one."""
    batch: tuple[np.ndarray, ...]
    """For each dimension of the batch, booleans: whether it may be nonzero anywhere at a unit."""
    free: tuple[np.ndarray, ...]
    """The same for the free dimensions."""
    summed: tuple[np.ndarray, ...]
    """The same for the dimensions that are summed over."""

    def over_free(self, live: Sequence[np.ndarray] | None = None) -> np.ndarray:
        """Return where any of the live units of the free dimensions may be different from zero.

        Args:
          live: masks of the units of the free dimensions; all units by default.

        Returns:
          Booleans [*batch, *summed].
        """
        live = self.free if live is None else live
        if self.nonzero is not None:
            found, axis = self.nonzero, len(self.batch)
            for mask in live:
                found = found if mask.all() else np.compress(mask, found, axis)
                found = np.asarray(found.any(axis))
            return found
        if not all((mask & may).any() for mask, may in zip(live, self.free, strict=True)):
            masks = [np.zeros_like(mask) for mask in (*self.batch, *self.summed)]
        else:
            masks = [*self.batch, *self.summed]
        return grid(masks)

    def along_free(self, index: int, other: np.ndarray) -> np.ndarray:
        """Return the units of a free dimension that have a part in the product.

        Args:
          index: the number of the free dimension.
          other: booleans [*batch, *summed]: where the other factor may be different from zero.

        Returns:
          Booleans for the units.
        """
        if self.nonzero is None:
            return np.asarray(self.free[index] & (self.over_free() & other).any())
        batch, free = len(self.batch), len(self.free)
        found = self.nonzero
        if not other.all():
            new = tuple(range(batch, batch + free))
            found = found & np.expand_dims(other, new)
        axes = tuple(axis for axis in range(found.ndim) if axis != batch + index)
        return np.asarray(found.any(axes))


class Product(NamedTuple):
    """The indices at which both factors of a product may differ from zero."""

    left: Factor
    """The left factor."""
    right: Factor
    """The right factor."""

    def nonzero(self) -> np.ndarray:
        """Return where both factors may be different from zero: booleans [*batch, *summed]."""
        return np.asarray(self.left.over_free() & self.right.over_free())


def grid(masks: Sequence[np.ndarray]) -> np.ndarray:
    """Return a mask of all tuples of units that are true in masks of one dimension each."""
    found = np.ones((), bool)
    for mask in masks:
        found = np.asarray(found[..., None] & mask)
    return found
