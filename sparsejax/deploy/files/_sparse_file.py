"""Sparse networks in a file of about the size of their information."""

from __future__ import annotations

import json
import lzma
import os
import zlib
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax._where import PyTree
from sparsejax.deploy.files import _container, _positions
from sparsejax.deploy.files._structure import Keys, described, keys_of, leaves_by_keys, rebuilt

_SMALL = 2**20  # bytes up to which the slow compression is tried
_STORED = (None, "float16", "bfloat16")


class _Leaf(NamedTuple):
    """How a leaf is written."""

    dtype: str
    shape: tuple[int, ...]
    stored: str
    """The dtype of its values in the file."""
    values: int
    """How many values it has in the file."""
    code: Literal["whole", "bitmask", "elias-fano"]


def save_sparse(
    path: str | os.PathLike[str],
    tree: PyTree,
    dtype: Literal["float16", "bfloat16"] | None = None,
) -> int:
    r"""Write a pytree of arrays, zeros left out; `load_sparse` reads it.

    Of each leaf the values that are not 0 are written, and their positions: as a bitmask or in
    Elias-Fano code (sorted, :math:`2 + \log_2(\text{size}/\text{count})` bits each), whichever is
    shorter; a leaf with hardly a zero is written whole. Values and positions of all leaves are then
    compressed with zlib or lzma where that shortens them. All dtypes of fixed size that NumPy and
    JAX know are exact, NaN and infinities included; only -0 is read back as 0.

    The file is a safetensors container with a version and a SHA-256 checksum. It appears in one
    move: no other process meets half of it.

    Args:
      path: of the file, which is replaced if there is one.
      tree: pytree of arrays or numbers. Dicts with strings or integers for keys, lists, tuples and
        ``None`` are written, too; a wrapper around an array, such as a Flax variable, counts as its
        array, any other node as a dict by name.
      dtype: round floating-point leaves of more bits to this one: half the file, and it is for you
        to measure what it costs. Default: exact.

    Returns:
      How many bytes the file has.

    Raises:
      TypeError: a leaf is traced, or no array of numbers.
      ValueError: ``dtype`` is another one; a finite value has no finite counterpart in it; a dict
        has other keys; two leaves have one path.
    """
    if dtype not in _STORED:
        raise ValueError(f"dtype must be one of {_STORED}; got {dtype!r}")
    structure = described(tree)
    leaves, values, short, masks = [], [], [], []
    for keys, given in leaves_by_keys(tree).items():
        name = "/".join(keys)
        array = _array(name, given)
        stored = _stored(name, array, dtype)
        positions = np.flatnonzero(stored)
        size, count = stored.size, len(positions)
        code: Literal["whole", "bitmask", "elias-fano"] = "elias-fano"
        if (size - count) * stored.itemsize <= _positions.bitmask_bytes(size):
            code, count = "whole", size
        elif not count or _positions.elias_fano_bytes(count, size) >= size / 8:
            code = "bitmask"
        leaf = _Leaf(array.dtype.name, array.shape, stored.dtype.name, count, code)
        leaves.append(leaf)
        chosen = stored.ravel() if code == "whole" else stored.ravel()[positions]
        values.append(_planes(chosen))
        short.append(_encode(leaf, positions, size))
        masks.append(_encode(_as_mask(leaf), positions, size))
    coded, found = _shortest(b"".join(short))
    # A mask is longer, but shorter when compressed if whole units are missing.
    other, found_other = _shortest(b"".join(masks))
    if len(other) < len(coded):
        leaves, coded, found = [_as_mask(leaf) for leaf in leaves], other, found_other
    numbers, compressed = _shortest(b"".join(values))
    about = {
        "tree": structure,
        "leaves": leaves,
        "positions": found,
        "values": compressed,
    }
    table = zlib.compress(json.dumps(about, separators=(",", ":")).encode(), 9)
    parts = {"about": table, "positions": coded, "values": numbers}
    return _container.write(path, parts)


def load_sparse(path: str | os.PathLike[str], like: PyTree = None) -> PyTree:
    """Read what `save_sparse` wrote.

    Args:
      path: of the file.
      like: a pytree whose leaves have the paths, the shapes and the dtypes of those in the file
        (arrays or ``jax.ShapeDtypeStruct``), for its structure. Default: the dicts, lists and
        tuples that were written.

    Returns:
      The tree, of NumPy arrays in their original dtypes (``jax.device_put`` puts it on a device).

    Raises:
      ValueError: the file is damaged, truncated, none of `save_sparse` or of another version; or
        ``like`` does not fit it (every leaf that does not is named).
      FileNotFoundError: there is no such file.
    """
    parts = _container.read(path)
    try:
        about = json.loads(zlib.decompress(parts["about"]))
        leaves = [_Leaf(*entry) for entry in about["leaves"]]
        positions = _decompress(parts["positions"], about["positions"])
        values = _decompress(parts["values"], about["values"])
        arrays = _decode(leaves, positions, values)
        found = dict(zip(keys_of(about["tree"]), arrays, strict=True))
    except (KeyError, TypeError, ValueError, zlib.error, lzma.LZMAError) as error:
        # The checksum fits, so it was written like this.
        raise ValueError(f"{os.fspath(path)} is not as save_sparse writes: {error}") from error
    if like is not None:
        return _like(like, found, os.fspath(path))
    return rebuilt(about["tree"], iter(arrays))


def _array(name: str, leaf: Any) -> np.ndarray:
    if isinstance(leaf, jax.core.Tracer):
        raise TypeError(f"tree must hold concrete arrays; {name or 'its leaf'} is traced")
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
        raise TypeError(f"tree must hold arrays of numbers; {name or 'its leaf'} is {leaf.dtype}")
    array = np.asarray(leaf)
    if array.dtype.kind not in "biufcV" or array.dtype.fields is not None:
        raise TypeError(f"tree must hold arrays of numbers; {name or 'its leaf'} is {array.dtype}")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _stored(name: str, array: np.ndarray, dtype: str | None) -> np.ndarray:
    """The array in the dtype that is written."""
    if dtype is None or not jnp.issubdtype(array.dtype, jnp.floating) or array.itemsize <= 2:
        return array
    with np.errstate(over="ignore"):
        stored = array.astype(jnp.dtype(dtype))
    if (np.isinf(stored) & np.isfinite(array)).any():
        raise ValueError(f"dtype {dtype!r} is too small for values of {name or 'the leaf'}")
    return stored


def _as_mask(leaf: _Leaf) -> _Leaf:
    return leaf._replace(code="bitmask") if leaf.code == "elias-fano" else leaf


def _encode(leaf: _Leaf, positions: np.ndarray, size: int) -> bytes:
    if leaf.code == "whole":
        return b""
    write = _positions.bitmask if leaf.code == "bitmask" else _positions.elias_fano
    return write(positions, size)


def _planes(values: np.ndarray) -> bytes:
    """First all first bytes, then all second ones: signs and exponents are alike."""
    raw = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
    return raw.reshape(-1, values.itemsize).T.tobytes()


def _shortest(raw: bytes) -> tuple[bytes, str]:
    found = {"none": raw, "zlib": zlib.compress(raw, 9 if len(raw) <= _SMALL else 1)}
    if len(raw) <= _SMALL:
        found["lzma"] = lzma.compress(raw, lzma.FORMAT_ALONE, preset=9)
    name = min(found, key=lambda name: len(found[name]))
    return found[name], name


def _decompress(coded: bytes, name: str) -> bytes:
    if name == "none":
        return coded
    return lzma.decompress(coded) if name == "lzma" else zlib.decompress(coded)


def _decode(leaves: Sequence[_Leaf], positions: bytes, values: bytes) -> list[np.ndarray]:
    found = []
    for leaf in leaves:
        size = int(np.prod(leaf.shape, dtype=np.int64))
        stored = jnp.dtype(leaf.stored)
        length = leaf.values * stored.itemsize
        raw = np.frombuffer(values[:length], np.uint8).reshape(stored.itemsize, leaf.values)
        values = values[length:]
        numbers = np.frombuffer(raw.T.tobytes(), stored)
        if leaf.code == "whole":
            array = numbers.copy()
        else:
            if leaf.code == "bitmask":
                length = _positions.bitmask_bytes(size)
                places = _positions.from_bitmask(positions[:length], size)
            else:
                length = _positions.elias_fano_bytes(leaf.values, size)
                places = _positions.from_elias_fano(positions[:length], leaf.values, size)
            positions = positions[length:]
            array = np.zeros(size, stored)
            array[places] = numbers
        found.append(array.reshape(leaf.shape).astype(jnp.dtype(leaf.dtype), copy=False))
    return found


def _like(like: PyTree, arrays: dict[Keys, np.ndarray], path: str) -> PyTree:
    wanted = leaves_by_keys(like)
    wrong = [f"{'/'.join(keys)} is missing" for keys in sorted(wanted.keys() - arrays.keys())]
    wrong += [f"{'/'.join(keys)} is unknown" for keys in sorted(arrays.keys() - wanted.keys())]
    for keys in sorted(wanted.keys() & arrays.keys()):
        here = arrays[keys].shape, arrays[keys].dtype
        leaf = wanted[keys]
        there = jnp.shape(leaf), jnp.dtype(getattr(leaf, "dtype", np.asarray(leaf).dtype))
        if here != there:
            name = "/".join(keys)
            wrong.append(f"{name} is {here[1]}{list(here[0])}, not {there[1]}{list(there[0])}")
    if wrong:
        raise ValueError(f"like does not fit {path}: {'; '.join(wrong)}")
    return jax.tree.unflatten(jax.tree.structure(like), [arrays[keys] for keys in wanted])
