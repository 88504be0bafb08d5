"""Arrays in three streams of bytes: runs of zeros, values, and packed codes of codebooks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from sparsejax._codebooks import bits_for
from sparsejax.deploy.files import _varint
from sparsejax.deploy.files._compression import compress
from sparsejax.deploy.files._packing import pack, packed_bytes, unpack

Spec = list[Any]
"""What the streams do not say about an array, as JSON."""

_PIECE = 2**20


class Writer:
    """Appends arrays to the streams."""

    def __init__(self) -> None:
        self._masks: list[Any] = []
        self._values: list[bytes] = []
        self._codes: list[bytes] = []

    def array(self, array: np.ndarray, stored: np.ndarray, keep_negative_zeros: bool) -> Spec:
        """Append the values of ``stored`` that are not zero, and return the spec of ``array``."""
        flat = stored.ravel("F")
        mask = _bytes(flat).any(axis=1) if keep_negative_zeros else flat != 0
        self._masks.append(mask)
        self._values.append(_bytes(flat[mask]).T.tobytes())
        return [array.dtype.name, array.shape, stored.dtype.name]

    def codes(self, codes: np.ndarray, size: int) -> Spec:
        """Append codes of a codebook of ``size`` values: all, or all but the most frequent one."""
        flat = codes.ravel("F").astype(np.uint32)
        whole = pack(flat, bits_for(size))
        common = int(np.bincount(flat).argmax()) if flat.size else 0
        mask = flat != common
        rest = flat[mask]
        # Runs of a random mask take its entropy; compressing them to see more would take long.
        if _entropy(rest.size, flat.size) + rest.size * bits_for(size - 1) < 8 * len(whole):
            packed = pack(rest - (rest > common), bits_for(size - 1))
            runs = _encoded_runs([mask])
            if len(compress(runs)) + len(compress(packed)) < len(compress(whole)):
                self._masks.append(mask)
                self._codes.append(packed)
                return [codes.dtype.name, codes.shape, common]
        self._codes.append(whole)
        return [codes.dtype.name, codes.shape, None]

    def streams(self) -> dict[str, bytes]:
        """Return the streams by name, without ``codes`` where there are no codebooks."""
        found = {"zeros": _encoded_runs(self._masks), "values": b"".join(self._values)}
        return found | ({"codes": b"".join(self._codes)} if self._codes else {})


class Reader:
    """Takes arrays from the streams, in the order in which they were written."""

    def __init__(self, streams: Mapping[str, bytes]) -> None:
        self._positions = np.cumsum(_varint.decode(streams["zeros"]) + 1) - 1
        self._values = np.frombuffer(streams["values"], np.uint8)
        self._codes = np.frombuffer(streams.get("codes", b""), np.uint8)
        self._start = self._value = self._code = 0

    def array(self, spec: Spec) -> np.ndarray:
        """Take an array."""
        name, shape, stored_name = spec
        dtype, stored = jnp.dtype(name), jnp.dtype(stored_name)
        array = np.zeros(_size(shape), stored)
        places = self._places(array.size)
        end = self._value + len(places) * stored.itemsize
        planes = self._values[self._value : end].reshape(stored.itemsize, len(places))
        self._value = end
        array[places] = np.frombuffer(planes.T.tobytes(), stored)
        return array.reshape(shape, order="F").astype(dtype, order="C", copy=False)

    def codes(self, spec: Spec, size: int) -> np.ndarray:
        """Take codes of a codebook of ``size`` values."""
        name, shape, common = spec
        count = _size(shape)
        if common is None:
            flat = self._packed(count, bits_for(size))
        else:
            places = self._places(count)
            rest = self._packed(len(places), bits_for(size - 1))
            flat = np.full(count, common, np.uint32)
            flat[places] = rest + (rest >= common)
        if flat.max(initial=0) >= max(size, 1):
            raise ValueError("a code is larger than its codebook")
        return flat.astype(jnp.dtype(name)).reshape(shape, order="F").copy(order="C")

    def _places(self, size: int) -> np.ndarray:
        """The places in the next ``size`` entries that are no zeros."""
        ends = (self._start, self._start + size)
        first, last = np.searchsorted(self._positions, ends)
        places = self._positions[first:last] - self._start
        self._start += size
        return places

    def _packed(self, count: int, bits: int) -> np.ndarray:
        end = self._code + packed_bytes(count, bits)
        data = self._codes[self._code : end]
        if len(data) < end - self._code:
            raise ValueError("codes are missing")
        self._code = end
        return unpack(data, count, bits)


def _entropy(count: int, size: int) -> float:
    """The bits of a random mask with ``count`` of ``size`` entries set."""
    shares = np.asarray([count, size - count]) / max(size, 1)
    shares = shares[shares > 0]
    return float(size * -(shares * np.log2(shares)).sum())


def _size(shape: list[int]) -> int:
    return int(np.prod(shape, dtype=np.int64))


def _encoded_runs(masks: Iterable[np.ndarray]) -> bytes:
    """Encode the lengths of the runs of zeros before each entry of masks in a row.

    It is made in pieces: as integers the runs take dozens of times the bytes of a mask.
    """
    codes, before = [], 0  # zeros at the end of the pieces before
    for mask in masks:
        for start in range(0, mask.size, _PIECE):
            piece = mask[start : start + _PIECE]
            places = np.flatnonzero(piece)
            if places.size:
                codes.append(_varint.encode(np.diff(places, prepend=-1 - before) - 1))
                before = -1 - int(places[-1])
            before += piece.size
    return b"".join(codes)


def _bytes(values: np.ndarray) -> np.ndarray:
    """Return the bytes of each value of a vector: [n, bytes]."""
    return np.frombuffer(values.tobytes(), np.uint8).reshape(-1, values.itemsize)
