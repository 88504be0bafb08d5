"""A dataset of a few random images in MNIST's files, so that tests of its handling are fast."""

import dataclasses
import gzip
import hashlib

import numpy as np

from experiments.data import formats
from experiments.data.specs import MNIST


def idx_bytes(array):
    header = bytes([0, 0, 8, array.ndim]) + np.asarray(array.shape, ">i4").tobytes()
    return header + array.astype(np.uint8).tobytes()


def write_idx(folder, arrays, suffix=".gz"):
    folder.mkdir(exist_ok=True)
    for key, name in formats.IDX_FILES.items():
        content = idx_bytes(arrays[key].reshape(arrays[key].shape[:3]))
        (folder / (name + suffix)).write_bytes(gzip.compress(content) if suffix else content)


def tiny_arrays(seed):
    rng = np.random.default_rng(seed)
    arrays = {}
    for split, count in (("train", 60), ("test", 20)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (count, 28, 28, 1), np.uint8)
        arrays[f"{split}_labels"] = rng.permutation(np.arange(count, dtype=np.uint8) % 10)
    return arrays


def tiny_spec(name, arrays, *remote):
    digests = {key: hashlib.sha256(array.tobytes()).hexdigest() for key, array in arrays.items()}
    return dataclasses.replace(MNIST, name=name, title=name.title(), sha256=digests, remote=remote)


ARRAYS = tiny_arrays(0)
SPEC = tiny_spec("tiny", ARRAYS)
