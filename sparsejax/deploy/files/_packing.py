"""Unsigned integers of a fixed number of bits, one after the other."""

from __future__ import annotations

import numpy as np


def pack(numbers: np.ndarray, bits: int) -> bytes:
    """Write numbers [n] below ``2**bits``, the most significant bit of each first."""
    planes = np.arange(bits - 1, -1, -1, dtype=numbers.dtype)
    return np.packbits((numbers[:, None] >> planes & 1).astype(bool)).tobytes()


def unpack(data: np.ndarray, count: int, bits: int) -> np.ndarray:
    """Read ``count`` numbers, [n] uint32, from bytes that `pack` wrote."""
    planes = np.unpackbits(data, count=count * bits).reshape(count, bits)
    numbers = np.zeros(count, np.uint32)
    for plane in range(bits):
        numbers = numbers << np.uint32(1) | planes[:, plane]
    return numbers


def packed_bytes(count: int, bits: int) -> int:
    """Return the size of ``count`` numbers in bytes."""
    return -(-count * bits // 8)
