r"""Sorted positions in few bits: a bitmask, or Elias-Fano coding where few of many are set.

Elias-Fano cuts each of n positions below u at :math:`l = \lfloor\log_2 (u/n)\rfloor` bits. The low
parts are written as they are; of the high parts, which rise, the differences are written in unary.
That is at most :math:`n (2 + \log_2 (u/n))` bits, half a bit a position more than any code needs on
average, and it is read and written by whole arrays.

References:
  Elias, Efficient storage and retrieval by content and address of static files, JACM 21, 1974.
"""

from __future__ import annotations

import numpy as np


def bitmask(positions: np.ndarray, size: int) -> bytes:
    """A bit for each of ``size`` places."""
    bits = np.zeros(size, np.uint8)
    bits[positions] = 1
    return np.packbits(bits).tobytes()


def from_bitmask(code: bytes, size: int) -> np.ndarray:
    """The positions, int64."""
    return np.flatnonzero(np.unpackbits(np.frombuffer(code, np.uint8), count=size))


def elias_fano(positions: np.ndarray, size: int) -> bytes:
    """Rising positions below ``size``, at least one."""
    low, _, unary = _lengths(len(positions), size)
    steps = np.arange(low, dtype=np.int64)
    parts = ((positions[:, None] >> steps) & 1).astype(np.uint8)
    marks = np.zeros(unary, np.uint8)
    marks[(positions >> low) + np.arange(len(positions))] = 1
    return np.packbits(parts).tobytes() + np.packbits(marks).tobytes()


def from_elias_fano(code: bytes, count: int, size: int) -> np.ndarray:
    """The positions, int64."""
    low, split, unary = _lengths(count, size)
    array = np.frombuffer(code, np.uint8)
    parts = np.unpackbits(array[:split], count=count * low).reshape(count, low)
    marks = np.flatnonzero(np.unpackbits(array[split:], count=unary))
    if len(marks) != count:
        raise ValueError(f"{len(marks)} positions in place of {count}")
    found = (marks - np.arange(count)) << low
    for step in range(low):
        found |= parts[:, step].astype(np.int64) << step
    return found


def elias_fano_bytes(count: int, size: int) -> int:
    """How long the code of ``count`` positions is."""
    _, split, unary = _lengths(count, size)
    return split + -(-unary // 8)


def bitmask_bytes(size: int) -> int:
    """How long a bitmask is."""
    return -(-size // 8)


def _lengths(count: int, size: int) -> tuple[int, int, int]:
    """Low bits of a position; bytes of all of them; bits of the unary part."""
    low = max(0, (size // count).bit_length() - 1)
    return low, -(-count * low // 8), count + ((size - 1) >> low) + 1
