"""A safetensors file of byte strings under a checksum.

The form is public and simple: eight bytes with the header's length, a header in JSON, the tensors'
bytes. Every tensor here is a vector of bytes. What is read must be, header and all, what would be
written of its contents; so no byte can change unnoticed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping

FORMAT = "sparsejax"
VERSION = 2


def write(path: str | os.PathLike[str], parts: Mapping[str, bytes]) -> int:
    """Write the file in one move; how many bytes it has."""
    content = _header(parts) + b"".join(parts.values())
    path = os.fspath(path)
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
    """The parts of a file; raises ValueError if it is not, to the bit, what was written."""
    with open(path, "rb") as file:
        content = file.read()
    end = 8 + int.from_bytes(content[:8], "little")
    try:
        header = json.loads(content[8:end])
        about = header.pop("__metadata__")
        form, version = about["format"], about["version"]
        ranges = {name: entry["data_offsets"] for name, entry in header.items()}
        data = content[end:]
        parts = {name: data[start:stop] for name, (start, stop) in ranges.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"path must be a file of save_sparse; {os.fspath(path)} is none, or it is damaged"
        ) from error
    if form != FORMAT:
        raise ValueError(f"path must be a file of save_sparse; {os.fspath(path)} is {form!r}")
    if version != str(VERSION):
        raise ValueError(
            f"{os.fspath(path)} has version {version!r}; this library reads version {VERSION}"
        )
    if _header(parts) + b"".join(parts.values()) != content:
        raise ValueError(f"{os.fspath(path)} is damaged or truncated: its checksum does not fit")
    return parts


def _header(parts: Mapping[str, bytes]) -> bytes:
    digest = hashlib.sha256()
    header: dict[str, object] = {}
    start = 0
    for name, part in parts.items():
        digest.update(f"{name}:{len(part)}:".encode() + part)
        stop = start + len(part)
        header[name] = {"dtype": "U8", "shape": [len(part)], "data_offsets": [start, stop]}
        start = stop
    about = {"format": FORMAT, "version": str(VERSION), "sha256": digest.hexdigest()}
    text = json.dumps({"__metadata__": about} | header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the form wants its tensors aligned
    return len(text).to_bytes(8, "little") + text
