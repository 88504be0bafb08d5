"""Pruned kernels of finished stages, in files from which an interrupted call goes on."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


class Store:
    """A folder with a file for each finished stage, which says of which call it is.

    Args:
      directory: the folder, which is made if it does not exist.
      fingerprint: what identifies the call.

    Raises:
      TypeError: ``directory`` is not a path.
      ValueError: the folder is a file, or holds damaged stages or those of another call.
    """

    def __init__(self, directory: str | os.PathLike[str], fingerprint: str):
        if not isinstance(directory, (str, os.PathLike)):
            raise TypeError(f"directory must be a path (str or os.PathLike); got {directory!r}")
        self._folder = pathlib.Path(directory)
        self._fingerprint = fingerprint
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise ValueError(f"directory must be a folder; {directory} is a file") from error
        for file in sorted(self._folder.glob("stage_*.npz")):
            self._read(file, kernels=False)

    def load(self, number: int) -> dict[str, np.ndarray] | None:
        """Return the kernels of a stage by their names; None if it was not finished."""
        file = self._file(number)
        return self._read(file, kernels=True) if file.exists() else None

    def save(self, number: int, kernels: Mapping[str, Any]) -> None:
        """Save the kernels of a stage; the file is there whole or not at all."""
        file = self._file(number)
        arrays = {name: np.asarray(kernel) for name, kernel in kernels.items()}
        found = [(name, array.dtype.name, array.shape) for name, array in arrays.items()]
        about = {"fingerprint": self._fingerprint, "kernels": found}
        # NumPy's files do not know dtypes such as bfloat16: their bytes are saved.
        raw = {
            str(place): np.frombuffer(array.tobytes(), np.uint8)
            for place, array in enumerate(arrays.values())
        }
        raw["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
        part = file.with_suffix(".part")
        with part.open("wb") as stream:
            np.savez(stream, **raw)  # type: ignore[arg-type]
        part.replace(file)

    def _file(self, number: int) -> pathlib.Path:
        return self._folder / f"stage_{number:04d}.npz"

    def _read(self, file: pathlib.Path, kernels: bool) -> dict[str, np.ndarray]:
        """Return the kernels of a file, or none of them; it has to be one of this call."""
        try:
            with np.load(file) as arrays:
                about = json.loads(bytes(arrays["about"]))
                own = about["fingerprint"] == self._fingerprint
                found = about["kernels"] if own and kernels else []
                read = {
                    name: arrays[str(place)].view(jnp.dtype(dtype)).reshape(shape)
                    for place, (name, dtype, shape) in enumerate(found)
                }
        except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"directory holds a damaged file, {file}; delete it") from error
        if not own:
            raise ValueError(
                "directory must be new, or that of an interrupted call with the same arguments; "
                f"{file} is of a call with others. Only vmap_size, on_layer, progress and the path "
                "of the directory may differ; where, function, the values of params and batches "
                "and all others may not"
            )
        return read


def fingerprint(arguments: Iterable[Any], trees: Iterable[Any]) -> str:
    """Return a hash of what identifies a call: arguments by their text, and arrays of trees."""
    found = hashlib.blake2b(digest_size=16)
    for argument in arguments:
        found.update(f"{argument}\n".encode())
    for tree in trees:
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
            is_key = jax.dtypes.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key)
            array = np.asarray(jax.random.key_data(leaf) if is_key else leaf)
            head = f"{jax.tree_util.keystr(path)} {array.dtype.name} {array.shape}\n"
            found.update(head.encode())
            found.update(np.ascontiguousarray(array).view(np.uint8).reshape(-1).data)
    return found.hexdigest()
