"""Sparse networks in a file of about the size of their information."""

from __future__ import annotations

import json
import os
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax._forms import is_form
from sparsejax._where import PyTree
from sparsejax.deploy.files import _container
from sparsejax.deploy.files._compression import compress, decompress
from sparsejax.deploy.files._leaves import LeafReader, LeafWriter
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
    all second bytes), and everything is compressed with LZMA, zlib or a Huffman code, whichever is
    smallest. A random mask of n weights among u takes about :math:`n \log_2(e\,u/n)` bits, that
    of a trained network less.

    Compressed weights in the forms that `sparsejax.compressed_forms` returns are written as such:
    a codebook (once for all leaves with an equal one) and codes of :math:`\lceil \log_2 k \rceil`
    bits, or run lengths of the most frequent code where that is smaller; two factors; the parts of
    a sum; values of fewer bits; the scales of groups.

    Every dtype of fixed size that NumPy and JAX know is stored to the bit, NaN payloads and
    infinities included. The sign of a zero is an exception unless ``keep_negative_zeros`` is set: a
    mask that is multiplied in leaves -0.0 in place of every negative weight, and that information
    would take more space than the network.

    The file is in the safetensors format, with a version and a SHA-256 checksum in its metadata. It
    is written atomically: no other process sees a part of it. The same tree gives the same bytes.

    Args:
      path: path of the file, which is replaced if it exists.
      tree: pytree of arrays, numbers or forms of any shapes. Dicts with string or integer keys,
        lists, tuples and ``None`` are stored, too. A wrapper around an array, such as a Flax
        variable, is stored as its array, any other node as a dict by name.
      dtype: rounds floating-point leaves of more bits to this dtype (codebooks and factors, too),
        which halves the file; they are restored in their own dtype. Default: exact.
      keep_negative_zeros: whether to store -0.0 as a value instead of as a zero.

    Returns:
      Size of the file in bytes.

    Raises:
      ImportError: the package ``safetensors`` is missing (``pip install 'sparsejax[deploy]'``).
      FileNotFoundError: the folder of ``path`` does not exist.
      TypeError: a leaf is traced, or is not an array of numbers.
      ValueError: ``dtype`` is not one of those above; a finite value overflows in it; a dict has
        keys of another type; two leaves have the same path; there is no array, as in the
        ``params`` of a compiled network; a code is not below the size of its codebook.
    """
    if dtype not in _ROUNDED:
        raise ValueError(f"dtype must be one of {_ROUNDED}; got {dtype!r}")
    structure = describe(tree)
    named = leaves_by_keys(tree)
    if not named:
        raise ValueError(
            "tree must hold at least one array; it holds none. The parameters of a network of "
            "compile_sparse are constants of its function: save those of the network that it was "
            "made of"
        )
    writer = LeafWriter(dtype, keep_negative_zeros)
    leaves = [writer.write("/".join(keys) or "the leaf", leaf) for keys, leaf in named.items()]
    about = json.dumps({"tree": structure, "leaves": leaves}, separators=(",", ":"))
    parts = {"about": about.encode(), **writer.streams()}
    return _container.write(path, {name: compress(part) for name, part in parts.items()})


def load_sparse(path: str | os.PathLike[str], like: PyTree = None) -> PyTree:
    """Read a pytree that `save_sparse` wrote.

    Args:
      path: path of the file.
      like: pytree of arrays, forms or ``jax.ShapeDtypeStruct`` whose structure the result gets; its
        leaves must have the paths, shapes and dtypes of those in the file, whose forms they take.
        Default: the dicts, lists and tuples that were written.

    Returns:
      The tree, of NumPy arrays in their original dtypes (``jax.device_put`` puts it on a device).
      Forms come back as forms; `sparsejax.compression.decode` makes arrays of them.

    Raises:
      ImportError: the package ``safetensors`` is missing (``pip install 'sparsejax[deploy]'``).
      ValueError: the file is damaged, truncated, not of `save_sparse` or of another version; or
        ``like`` does not fit it (the message names every leaf that does not).
      FileNotFoundError: the file does not exist.
    """
    path = os.fspath(path)
    parts = _container.read(path)
    try:
        streams = {name: decompress(part) for name, part in parts.items()}
        about = json.loads(streams.pop("about"))
        reader = LeafReader(streams)
        leaves = [reader.read(spec) for spec in about["leaves"]]
        found = dict(zip(keys_of(about["tree"]), leaves, strict=True))
    except (KeyError, TypeError, ValueError, IndexError) as error:
        # The checksum is right, so the file was written like this.
        raise ValueError(f"{path} is not as save_sparse writes: {error}") from error
    if like is not None:
        return _like(like, found, path)
    return rebuild(about["tree"], iter(leaves))


def _like(like: PyTree, leaves: dict[Keys, Any], path: str) -> PyTree:
    wanted = leaves_by_keys(like)
    missing = sorted(wanted.keys() - leaves.keys())
    wrong = [f"{'/'.join(keys)} is missing" for keys in missing]
    wrong += [f"{'/'.join(keys)} is unknown" for keys in sorted(leaves.keys() - wanted.keys())]
    for keys in sorted(wanted.keys() & leaves.keys()):
        here, there = _type(leaves[keys]), _type(wanted[keys])
        if here != there:
            name = "/".join(keys)
            wrong.append(f"{name} is {here[1]}{list(here[0])}, not {there[1]}{list(there[0])}")
    if wrong:
        hint = ""
        if any(not hasattr(wanted[keys], "dtype") for keys in missing):
            hint = ". Pass the arrays of a module alone, such as equinox.filter(like, "
            hint += "equinox.is_array)"
        raise ValueError(f"like does not fit {path}: {'; '.join(wrong)}{hint}")
    structure = jax.tree.structure(like, is_leaf=is_form)
    return jax.tree.unflatten(structure, [leaves[keys] for keys in wanted])


def _type(leaf: Any) -> tuple[tuple[int, ...], Any]:
    """The shape and the dtype of an array, a number, a form or a ``jax.ShapeDtypeStruct``."""
    dtype = leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype
    return tuple(getattr(leaf, "shape", ())), jnp.dtype(dtype)
