"""The positions of a sparse vector as gaps of a fixed width."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class GapCode(NamedTuple):
    """The best code of some positions."""

    width: int
    """The bits of a gap."""
    padding: int
    """The number of entries that stand for a zero, since a gap did not fit."""
    bits: int
    """The bits of all entries, their values included."""


def gap_code(
    positions: np.ndarray, value_bits: int, value_bits_if_padded: int | None = None
) -> GapCode:
    r"""Return the width of the gaps that makes the code of a sparse vector shortest.

    An entry is a gap, the number of zeros since the last entry, and a value. In w bits, a run of g
    zeros takes :math:`\lfloor g / 2^w \rfloor` entries of value zero before the one that follows.
    The zeros behind the last entry are known from the length of the vector.

    Args:
      positions: int [n], rising, the positions of the entries that are not zero.
      value_bits: the bits of a value.
      value_bits_if_padded: those of a value where some entries are zero; default: as many.
    """
    if value_bits_if_padded is None:
        value_bits_if_padded = value_bits
    gaps = np.diff(positions, prepend=-1) - 1
    found = []
    for width in range(int(gaps.max(initial=0)).bit_length() + 1):
        padding = int((gaps >> width).sum())
        value = value_bits_if_padded if padding else value_bits
        found.append(GapCode(width, padding, (len(gaps) + padding) * (width + value)))
    return min(found, key=lambda code: code.bits)
