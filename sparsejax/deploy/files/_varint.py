"""Variable-length integers: seven bits a byte, least significant first (LEB128)."""

from __future__ import annotations

import numpy as np


def encode(numbers: np.ndarray) -> bytes:
    """Encode non-negative integers.

    Args:
      numbers: [n], of an integer dtype, each at least 0.

    Returns:
      The code of all numbers in order. The high bit of a byte is set where its number goes on.
    """
    numbers = np.asarray(numbers, np.int64)
    width = max(1, -(-int(numbers.max(initial=0)).bit_length() // 7))
    rest = numbers[:, None] >> (7 * np.arange(width))
    used = rest > 0
    used[:, 0] = True
    groups = (rest & 0x7F).astype(np.uint8)
    groups[:, :-1] |= used[:, 1:].astype(np.uint8) << 7
    return groups[used].tobytes()


def decode(code: bytes) -> np.ndarray:
    """Decode what `encode` wrote.

    Returns:
      The numbers, [n] int64.

    Raises:
      ValueError: the last number is incomplete.
    """
    groups = np.frombuffer(code, np.uint8)
    if not len(groups):
        return np.zeros(0, np.int64)
    ends = np.flatnonzero(groups < 0x80)
    if not len(ends) or ends[-1] != len(groups) - 1:
        raise ValueError("the last variable-length integer is incomplete")
    starts = np.concatenate([[0], ends[:-1] + 1])
    place = np.arange(len(groups)) - np.repeat(starts, ends - starts + 1)
    return np.add.reduceat((groups & 0x7F).astype(np.int64) << (7 * place), starts)
