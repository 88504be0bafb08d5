"""A safetensors file of byte strings, with a version and a checksum in its metadata."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from sparsejax._optional import optional

VERSION = 3
_KEY = "sparsejax"  # The only key: safetensors writes several in no fixed order.


def write(path: str | os.PathLike[str], parts: Mapping[str, bytes]) -> int:
    """Write a file atomically: another process sees all of it or nothing.

    Args:
      path: path of the file, which is replaced if it exists.
      parts: contents by name.

    Returns:
      Size of the file in bytes.

    Raises:
      FileNotFoundError: the folder of ``path`` does not exist.
    """
    save = _safetensors().numpy.save
    arrays = {name: np.frombuffer(part, np.uint8) for name, part in parts.items()}
    about = {"version": VERSION, "sha256": _checksum(arrays)}
    content: bytes = save(arrays, {_KEY: json.dumps(about, separators=(",", ":"))})
    path = os.fspath(path)
    folder = os.path.dirname(path)
    if folder and not os.path.isdir(folder):
        raise FileNotFoundError(f"path must be in a folder that exists; there is no {folder}")
    partial = f"{path}.{os.getpid()}.partial"
    try:
        with open(partial, "wb") as file:
            file.write(content)
        os.replace(partial, path)
    except OSError:
        if os.path.exists(partial):
            os.remove(partial)
        raise
    return len(content)


def read(path: str | os.PathLike[str]) -> dict[str, bytes]:
    """Read the parts of a file that `write` wrote.

    Raises:
      ValueError: the file is another one, of another version, damaged or truncated.
      FileNotFoundError: the file does not exist.
    """
    safetensors = _safetensors()
    path = os.fspath(path)
    other = f"path must be a file of save_sparse; {path} is another one, damaged or truncated"
    try:
        with safetensors.safe_open(path, framework="np") as file:
            about = json.loads((file.metadata() or {})[_KEY])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        version, checksum = about["version"], about["sha256"]
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(other) from error
    if version != VERSION:
        raise ValueError(f"{path} has version {version}; this library reads version {VERSION}")
    if checksum != _checksum(arrays):
        raise ValueError(f"{path} is damaged: its contents do not match its checksum")
    return {name: array.tobytes() for name, array in arrays.items()}


def _checksum(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name}:{array.dtype}:{array.shape}:".encode() + array.tobytes())
    return digest.hexdigest()


def _safetensors() -> Any:
    user = "save_sparse and load_sparse need"
    optional("safetensors.numpy", "safetensors", "deploy", user)
    return optional("safetensors", "safetensors", "deploy", user)
