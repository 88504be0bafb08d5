"""The smallest of LZMA, zlib and its Huffman code alone, or the data themselves."""

from __future__ import annotations

import lzma
import zlib
from typing import Any

_SLOW = 2**20  # Bytes above which LZMA, at about 1 MB a second, takes too long.
_STORED, _ZLIB, _LZMA = range(3)


def compress(raw: bytes) -> bytes:
    """Compress ``raw``; the first byte of the result says how."""
    # Run lengths of a random mask and packed codes repeat nothing: matches of a few bytes cost half
    # as much again as the entropy in zlib's fast levels, and an eighth in LZMA.
    huffman = zlib.compressobj(1, strategy=zlib.Z_HUFFMAN_ONLY)
    found = [(_STORED, raw), (_ZLIB, huffman.compress(raw) + huffman.flush())]
    if len(raw) <= _SLOW:  # zlib's level 9 is as slow as LZMA, and hardly better than level 6
        found.append((_ZLIB, zlib.compress(raw, 6)))
        found.append((_LZMA, lzma.compress(raw, lzma.FORMAT_RAW, filters=_FILTERS)))
    else:
        found.append((_ZLIB, zlib.compress(raw, 1)))
    method, smallest = min(found, key=lambda one: len(one[1]))
    return bytes([method]) + smallest


def decompress(data: bytes) -> bytes:
    """Restore what `compress` was given.

    Raises:
      ValueError: ``data`` is not of `compress`.
    """
    method, rest = data[:1], data[1:]
    try:
        if method == bytes([_STORED]):
            return rest
        if method == bytes([_ZLIB]):
            return zlib.decompress(rest)
        if method == bytes([_LZMA]):
            return lzma.decompress(rest, lzma.FORMAT_RAW, filters=_FILTERS)
    except (zlib.error, lzma.LZMAError, EOFError) as error:
        raise ValueError(f"compressed data cannot be read: {error}") from error
    raise ValueError(f"compressed data start with a byte from 0 to 2; got {method!r}")


# Neither run lengths nor planes of bytes are aligned to words, which LZMA's defaults assume
# (``pb`` 2), and the byte before says little of the next one (``lc`` 3).
_FILTERS: list[dict[str, Any]] = [
    {"id": lzma.FILTER_LZMA1, "preset": 9, "dict_size": _SLOW, "lc": 1, "lp": 0, "pb": 0}
]
