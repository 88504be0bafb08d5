"""Fixed indices that gathers and dynamic slices read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np


class FixedSlice(NamedTuple):
    """A slice of every dimension of an operand, by a gather or a dynamic slice."""

    starts: tuple[int, ...]
    """For each dimension of the operand, the first index."""
    squeezed: tuple[int, ...]
    """The operand's dimensions that the result does not have; their slices have length 1."""


class FixedTake(NamedTuple):
    """Indices of one dimension of an operand, by a gather."""

    axis: int
    """The operand's dimension."""
    result_axis: int
    """The result's dimension."""
    indices: np.ndarray
    """The indices, all within bounds."""


Indices = Mapping[int, FixedSlice | FixedTake]
"""The fixed indices by the number of the equation that reads them."""
