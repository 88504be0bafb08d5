"""Arrays and the forms of compressed arrays, as specs in JSON and arrays in streams."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax._forms import LowRankArray, QuantizedArray, RoundedArray, ScaledArray, SumArray
from sparsejax._where import check_array
from sparsejax.deploy.files._streams import Reader, Writer


class LeafWriter:
    """Writes leaves to streams, and equal codebooks once."""

    def __init__(self, dtype: str | None, keep_negative_zeros: bool) -> None:
        self._dtype, self._keep = dtype, keep_negative_zeros
        self._writer = Writer()
        self._codebooks: dict[tuple[str, bytes], int] = {}

    def write(self, name: str, leaf: Any) -> Any:
        """Append a leaf and return its spec; ``name`` is for errors."""
        match leaf:
            case QuantizedArray():
                codebook, codes = (checked(name, part) for part in (leaf.codebook, leaf.codes))
                _check_codes(name, codebook, codes)
                return {
                    "codebook": self._codebook(name, codebook),
                    "codes": self._writer.codes(codes, codebook.size),
                }
            case LowRankArray():
                return {
                    "left": self.write(name, leaf.left),
                    "right": self.write(name, leaf.right),
                    "shape": leaf.shape,
                    "scheme": leaf.scheme,
                    "stacked": leaf.stacked,
                }
            case RoundedArray():
                return {"values": self.write(name, leaf.values), "dtype": leaf.dtype.name}
            case ScaledArray():
                return {
                    "scales": self.write(name, leaf.scales),
                    "values": self.write(name, leaf.values),
                    "axis": leaf.axis,
                    "group_size": leaf.group_size,
                    "dtype": jnp.dtype(leaf.dtype).name,
                }
            case SumArray():
                return {"parts": [self.write(name, part) for part in leaf.parts]}
        array = checked(name, leaf)
        return self._writer.array(array, rounded(name, array, self._dtype), self._keep)

    def streams(self) -> dict[str, bytes]:
        """Return the streams by name."""
        return self._writer.streams()

    def _codebook(self, name: str, codebook: np.ndarray) -> Any:
        """Return the number of a codebook, or its spec where it is a new one."""
        key = codebook.dtype.name, codebook.tobytes()
        if key in self._codebooks:
            return self._codebooks[key]
        self._codebooks[key] = len(self._codebooks)
        # The sign of a zero takes little space here, and two values must stay two.
        return self._writer.array(codebook, rounded(name, codebook, self._dtype), True)


class LeafReader:
    """Reads leaves in the order in which they were written."""

    def __init__(self, streams: dict[str, bytes]) -> None:
        self._reader = Reader(streams)
        self._codebooks: list[np.ndarray] = []

    def read(self, spec: Any) -> Any:
        """Take the leaf of a spec, of arrays of NumPy."""
        if isinstance(spec, list):
            return self._reader.array(spec)
        if "codes" in spec:
            number = spec["codebook"]
            if isinstance(number, list):
                self._codebooks.append(self._reader.array(number))
                number = -1
            codebook: Any = self._codebooks[number]
            codes: Any = self._reader.codes(spec["codes"], codebook.size)
            return QuantizedArray(codebook, codes)
        if "left" in spec:
            left, right = self.read(spec["left"]), self.read(spec["right"])
            return LowRankArray(left, right, tuple(spec["shape"]), spec["scheme"], spec["stacked"])
        if "scales" in spec:
            scales, values = self.read(spec["scales"]), self.read(spec["values"])
            dtype = jnp.dtype(spec["dtype"])
            return ScaledArray(values, scales, spec["axis"], spec["group_size"], dtype)
        if "values" in spec:
            return RoundedArray(self.read(spec["values"]), jnp.dtype(spec["dtype"]))
        return SumArray(tuple(self.read(part) for part in spec["parts"]))


def checked(name: str, leaf: Any) -> np.ndarray:
    """Return a leaf as an array of numbers in this machine's byte order."""
    if isinstance(leaf, jax.core.Tracer):
        raise TypeError(f"tree must hold concrete arrays; {name} is traced")
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
        raise TypeError(f"tree must hold arrays of numbers; {name} is {leaf.dtype}")
    check_array(name, leaf)
    array = np.asarray(leaf)
    if array.dtype.kind not in "biufcV" or array.dtype.fields is not None:
        raise TypeError(f"tree must hold arrays of numbers; {name} is {array.dtype}")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def rounded(name: str, array: np.ndarray, dtype: str | None) -> np.ndarray:
    """Return the array in the dtype in which it is stored."""
    if dtype is None or not jnp.issubdtype(array.dtype, jnp.floating) or array.itemsize <= 2:
        return array
    with np.errstate(over="ignore"):
        stored = array.astype(jnp.dtype(dtype))
    if (np.isinf(stored) & np.isfinite(array)).any():
        raise ValueError(f"dtype {dtype!r} is too small for values of {name}")
    return stored


def _check_codes(name: str, codebook: np.ndarray, codes: np.ndarray) -> None:
    if codes.size and not (codes.min() >= 0 and codes.max() < codebook.size):
        raise ValueError(
            f"tree must hold codes below the size of their codebook, {codebook.size}; {name} has "
            f"codes from {codes.min()} to {codes.max()}"
        )
