"""Sparse networks in a file of about the size of their information."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax._where import PyTree
from sparsejax.deploy.files import _container, _varint
from sparsejax.deploy.files._compression import compress, decompress
from sparsejax.deploy.files._structure import Keys, describe, keys_of, leaves_by_keys, rebuild

_ROUNDED = (None, "float16", "bfloat16")


def save_sparse(
    path: str | os.PathLike[str],
    tree: PyTree,
    dtype: Literal["float16", "bfloat16"] | None = None,
    keep_negative_zeros: bool = False,
) -> int:
    r"""Write a pytree of arrays without its zeros; `load_sparse` reads it.

    The file stores the values that are not 0 and the lengths of the runs of zeros between them, as
    variable-length integers (LEB128). Leaves are read in column-major order, so that the weights of
    an output unit follow one another. The bytes of the values are transposed (all first bytes, then
    all second bytes), and everything is compressed with LZMA or zlib, whichever is smaller. A
    random mask of n weights among u takes about :math:`n \log_2(e\,u/n)` bits, the mask of a
    trained network less.

    Every dtype of fixed size that NumPy and JAX know is stored to the bit, NaN payloads and
    infinities included. The sign of a zero is an exception unless ``keep_negative_zeros`` is set: a
    mask that is multiplied in leaves -0.0 in place of every negative weight, and that information
    would take more space than the network.

    The file is in the safetensors format, with a version and a SHA-256 checksum in its metadata. It
    is written atomically: no other process sees a part of it. The same tree gives the same bytes.

    Args:
      path: path of the file, which is replaced if it exists.
      tree: pytree of arrays or numbers of any shapes. Dicts with string or integer keys, lists,
        tuples and ``None`` are stored, too. A wrapper around an array, such as a Flax variable, is
        stored as its array, any other node as a dict by name.
      dtype: rounds floating-point leaves of more bits to this dtype, which halves the file; they
        are restored in their own dtype. Default: exact.
      keep_negative_zeros: whether to store -0.0 as a value instead of as a zero.

    Returns:
      Size of the file in bytes.

    Raises:
      ImportError: the package ``safetensors`` is missing (``pip install 'sparsejax[deploy]'``).
      TypeError: a leaf is traced, or is not an array of numbers.
      ValueError: ``dtype`` is not one of those above; a finite value overflows in it; a dict has
        keys of another type; two leaves have the same path.
    """
    if dtype not in _ROUNDED:
        raise ValueError(f"dtype must be one of {_ROUNDED}; got {dtype!r}")
    structure = describe(tree)
    leaves, values = [], []
    masks: list[Any] = [np.zeros(0, bool)]
    for keys, given in leaves_by_keys(tree).items():
        name = "/".join(keys) or "the leaf"
        array = _array(name, given)
        stored = _rounded(name, array, dtype).ravel("F")
        mask = _bytes(stored).any(axis=1) if keep_negative_zeros else stored != 0
        leaves.append([array.dtype.name, array.shape, stored.dtype.name])
        masks.append(mask)
        values.append(_bytes(stored[mask]).T.tobytes())
    positions = np.flatnonzero(np.concatenate(masks))
    zeros = np.diff(positions, prepend=-1) - 1
    about = json.dumps({"tree": structure, "leaves": leaves}, separators=(",", ":"))
    parts = {"about": about.encode(), "zeros": _varint.encode(zeros), "values": b"".join(values)}
    return _container.write(path, {name: compress(part) for name, part in parts.items()})


def load_sparse(path: str | os.PathLike[str], like: PyTree = None) -> PyTree:
    """Read a pytree that `save_sparse` wrote.

    Args:
      path: path of the file.
      like: pytree of arrays or ``jax.ShapeDtypeStruct`` whose structure the result gets; its leaves
        must have the paths, shapes and dtypes of those in the file. Default: the dicts, lists and
        tuples that were written.

    Returns:
      The tree, of NumPy arrays in their original dtypes (``jax.device_put`` puts it on a device).

    Raises:
      ImportError: the package ``safetensors`` is missing (``pip install 'sparsejax[deploy]'``).
      ValueError: the file is damaged, truncated, not of `save_sparse` or of another version; or
        ``like`` does not fit it (the message names every leaf that does not).
      FileNotFoundError: the file does not exist.
    """
    path = os.fspath(path)
    parts = _container.read(path)
    try:
        about = json.loads(decompress(parts["about"]))
        positions = np.cumsum(_varint.decode(decompress(parts["zeros"])) + 1) - 1
        arrays = _decode(about["leaves"], positions, decompress(parts["values"]))
        found = dict(zip(keys_of(about["tree"]), arrays, strict=True))
    except (KeyError, TypeError, ValueError, IndexError) as error:
        # The checksum is right, so the file was written like this.
        raise ValueError(f"{path} is not as save_sparse writes: {error}") from error
    if like is not None:
        return _like(like, found, path)
    return rebuild(about["tree"], iter(arrays))


def _array(name: str, leaf: Any) -> np.ndarray:
    if isinstance(leaf, jax.core.Tracer):
        raise TypeError(f"tree must hold concrete arrays; {name} is traced")
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
        raise TypeError(f"tree must hold arrays of numbers; {name} is {leaf.dtype}")
    array = np.asarray(leaf)
    if array.dtype.kind not in "biufcV" or array.dtype.fields is not None:
        raise TypeError(f"tree must hold arrays of numbers; {name} is {array.dtype}")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _rounded(name: str, array: np.ndarray, dtype: str | None) -> np.ndarray:
    """Return the array in the dtype in which it is stored."""
    if dtype is None or not jnp.issubdtype(array.dtype, jnp.floating) or array.itemsize <= 2:
        return array
    with np.errstate(over="ignore"):
        stored = array.astype(jnp.dtype(dtype))
    if (np.isinf(stored) & np.isfinite(array)).any():
        raise ValueError(f"dtype {dtype!r} is too small for values of {name}")
    return stored


def _bytes(values: np.ndarray) -> np.ndarray:
    """Return the bytes of each value of a vector: [n, bytes]."""
    return np.frombuffer(values.tobytes(), np.uint8).reshape(-1, values.itemsize)


def _decode(
    leaves: Sequence[tuple[str, Sequence[int], str]], positions: np.ndarray, values: bytes
) -> list[np.ndarray]:
    """Return the leaves from the places of their values, counted through all of them."""
    found = []
    raw = np.frombuffer(values, np.uint8)
    start = offset = 0
    for name, shape, stored_name in leaves:
        dtype, stored = jnp.dtype(name), jnp.dtype(stored_name)
        array = np.zeros(int(np.prod(shape, dtype=np.int64)), stored)
        first, last = np.searchsorted(positions, (start, start + array.size))
        end = offset + (last - first) * stored.itemsize
        planes = raw[offset:end].reshape(stored.itemsize, last - first)
        array[positions[first:last] - start] = np.frombuffer(planes.T.tobytes(), stored)
        found.append(array.reshape(shape, order="F").astype(dtype, order="C", copy=False))
        start += array.size
        offset = end
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
