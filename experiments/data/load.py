"""Datasets as arrays, split three ways."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import NamedTuple

import filelock
import numpy as np

from experiments.data.arrays import load_arrays, save_arrays
from experiments.data.specs import SPECS, DataError
from experiments.data.splits import stratified_holdout

VALIDATION_SIZE = 5000
_SPLIT_SEED = 0  # one split for every run, so that validation errors can be compared


class Split(NamedTuple):
    """Images uint8 [n, h, w, c] and labels int32 [n]."""

    images: np.ndarray
    labels: np.ndarray


class Dataset(NamedTuple):
    """A dataset in three splits."""

    name: str
    train: Split
    validation: Split
    test: Split


def default_data_dir() -> Path:
    """Return ``$SPARSEJAX_DATA_DIR``, or ``sparsejax`` in the user's cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("SPARSEJAX_DATA_DIR") or Path(cache) / "sparsejax")


def load(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    validation_size: int = VALIDATION_SIZE,
    validation_fold: int = 0,
) -> Dataset:
    """Load a dataset; the first call prepares it.

    The sources are tried in this order: files prepared earlier in ``data_dir``; files that the user
    put there; the dataset's own address, if it answers within seconds; public package mirrors.
    Processes that load the same dataset at the same time wait for the one that prepares it.

    Args:
      name: ``mnist``, ``fashion_mnist`` or ``cifar10``.
      data_dir: defaults to `default_data_dir`; created if only its last part is missing.
      validation_size: number of images held out of the training set, the same ones at every call.
      validation_fold: which of the disjoint sets of that many images is held out.

    Returns:
      The three splits.

    Raises:
      ValueError: there is no such dataset or fold, or ``data_dir`` is not a folder.
      DataError: every route failed (the message lists them), or the user's files are wrong.
    """
    if name not in SPECS:
        raise ValueError(f"name must be one of {sorted(SPECS)}; got {name!r}")
    folder, spec = check_folder(data_dir), SPECS[name]
    mapped = folder / f"sparsejax_{name}" / "arrays"
    with filelock.FileLock(folder / f".{name}.lock"):
        try:
            arrays = load_arrays(spec, mapped)
        except DataError as error:
            warnings.warn(f"{error}; making them again", stacklevel=2)
            arrays = None
        if arrays is None:
            from experiments.data.builders import prepare  # TFDS is slow to import

            arrays = prepare(spec, folder)
            save_arrays(spec, arrays, mapped)
    labels = {split: arrays[f"{split}_labels"].astype(np.int32) for split in ("train", "test")}
    train, validation = stratified_holdout(
        labels["train"], validation_size, _SPLIT_SEED, validation_fold
    )
    images = arrays["train_images"]
    return Dataset(
        name,
        train=Split(images[train], labels["train"][train]),
        validation=Split(images[validation], labels["train"][validation]),
        test=Split(arrays["test_images"], labels["test"]),
    )


def check_folder(data_dir: str | os.PathLike[str] | None) -> Path:
    """Return the data folder, made if only its last part is missing.

    Raises:
      ValueError: ``data_dir`` is not a folder.
    """
    if data_dir is None:
        folder = default_data_dir()
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    folder = Path(data_dir).expanduser().absolute()
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"data_dir must be a folder; {folder} is a file")
    if not folder.parent.is_dir():
        raise ValueError(f"data_dir must be a folder; {folder.parent} does not exist")
    folder.mkdir(exist_ok=True)
    return folder
