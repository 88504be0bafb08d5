"""Readers of the file formats in which the datasets are distributed."""

from __future__ import annotations

import gzip
import json
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

IDX_FILES = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}
_CIFAR_TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))
_CIFAR_ARCHIVE = "cifar-10-binary.tar.gz"


def read_idx_folder(folder: Path) -> Mapping[str, np.ndarray] | None:
    """Return the arrays of four IDX files, plain or gzipped, or None if one of them is missing."""
    files = {}
    for key, name in IDX_FILES.items():
        candidates = [folder / name, folder / f"{name}.gz"]
        file = next((file for file in candidates if file.is_file()), None)
        if file is None:
            return None
        files[key] = file
    found = {key: read_idx(file) for key, file in files.items()}
    for key in ("train_images", "test_images"):
        found[key] = found[key][..., None]
    return found


def read_idx(file: Path) -> np.ndarray:
    """Read a uint8 array from an IDX file: magic 0, 0, 8, rank; big-endian int32 sizes; the data.

    Raises:
      ValueError: the file is not an IDX file of bytes, or is truncated.
    """
    opener = gzip.open if file.suffix == ".gz" else open
    try:
        with opener(file, "rb") as stream:
            raw = stream.read()
    except (OSError, EOFError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08":
        raise ValueError(f"{file} is not an IDX file of bytes")
    sizes = np.frombuffer(raw, ">i4", count=raw[3], offset=4)
    data = np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3])
    if data.size != np.prod(sizes):
        raise ValueError(f"{file} holds {data.size} bytes of data; its header says {sizes}")
    return data.reshape(sizes)


def read_cifar10_folder(folder: Path) -> Mapping[str, np.ndarray] | None:
    """Read CIFAR-10 from its binary archive, its .bin files, or PNG sheets with one image per row.

    Returns None if the folder holds none of these.
    """
    for place in (folder, folder / "cifar-10-batches-bin"):
        if (place / "test_batch.bin").is_file():
            return _cifar10(lambda name, at=place: _bin_batch((at / f"{name}.bin").read_bytes()))
    if (folder / _CIFAR_ARCHIVE).is_file():
        with tarfile.open(folder / _CIFAR_ARCHIVE) as archive:
            return _cifar10(lambda name: _bin_batch(_member(archive, f"{name}.bin")))
    if (folder / "test_batch.png").is_file():
        sheets = _cifar10(lambda name: (_sheet(folder / f"{name}.png"), np.empty(0, np.uint8)))
        for split in ("train", "test"):
            labels = json.loads(
                (folder / f"{split}_lables.json").read_text()
            )  # spelt so in the package
            sheets[f"{split}_labels"] = np.asarray(labels, np.uint8)
        return sheets
    return None


def _cifar10(read_batch: Callable[[str], tuple[np.ndarray, np.ndarray]]) -> dict[str, np.ndarray]:
    batches = [read_batch(name) for name in _CIFAR_TRAIN]
    test_images, test_labels = read_batch("test_batch")
    return {
        "train_images": np.concatenate([images for images, _ in batches]),
        "train_labels": np.concatenate([labels for _, labels in batches]),
        "test_images": test_images,
        "test_labels": test_labels,
    }


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(f"cifar-10-batches-bin/{name}")
    if file is None:
        raise ValueError(f"{name} is not a file in the archive")
    return file.read()


def _bin_batch(raw: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Split records of a label byte and 3,072 bytes of red, green and blue planes."""
    records = np.frombuffer(raw, np.uint8).reshape(-1, 3073)
    images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), records[:, 0].copy()


def _sheet(file: Path) -> np.ndarray:
    """Read images [n, 32, 32, 3] from a PNG with one image of 1,024 pixels per row."""
    # No sheet is larger than 10,000 rows; Pillow refuses to decode a file of twice that size.
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, 10_000 * 1024
    try:
        with Image.open(file) as sheet:
            return np.asarray(sheet.convert("RGB")).reshape(-1, 32, 32, 3)
    finally:
        Image.MAX_IMAGE_PIXELS = limit
