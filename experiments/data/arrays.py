"""A dataset's arrays as memory-mapped .npy files, with a stamp that makes checking them cheap."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from experiments.data.specs import Arrays, DataError, Spec

_STAMP = "stamp.json"


def save_arrays(spec: Spec, arrays: Arrays, folder: Path) -> None:
    """Replace ``folder`` by .npy files of arrays that `Spec.check` has accepted, and their stamp.

    The files are written elsewhere and renamed, so ``folder`` is never incomplete, and a process
    that has mapped its files keeps them.
    """
    scratch = folder.with_name(f"incomplete_{folder.name}")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    for key in spec.sha256:
        np.save(scratch / f"{key}.npy", arrays[key])
    _write_stamp(spec, scratch)
    shutil.rmtree(folder, ignore_errors=True)
    scratch.rename(folder)


def load_arrays(spec: Spec, folder: Path) -> Arrays | None:
    """Map the .npy files in ``folder`` into memory; return None if there is no such folder.

    Files whose sizes and modification times are those of the stamp are taken as they are; others,
    such as those of a copied folder, are compared with the dataset's checksums once and stamped.
    The arrays are copy-on-write: writing to them changes memory and not the files.

    Raises:
      DataError: the files are damaged.
    """
    if not folder.exists():
        return None
    try:
        found = {key: np.load(folder / f"{key}.npy", mmap_mode="c") for key in spec.sha256}
        stamped = json.loads((folder / _STAMP).read_text()) == _stamp(spec, folder)
    except (OSError, ValueError) as error:
        raise DataError(f"{spec.title}: the arrays in {folder} are damaged: {error}") from error
    arrays = {key: np.asarray(array) for key, array in found.items()}
    if not stamped:
        spec.check(arrays, f"the arrays in {folder}")
        _write_stamp(spec, folder)
    return arrays


def _stamp(spec: Spec, folder: Path) -> Mapping[str, list[str | int]]:
    """Size in bytes, modification time in ns and SHA-256 of the content, for each array."""
    status = {key: (folder / f"{key}.npy").stat() for key in spec.sha256}
    return {k: [s.st_size, s.st_mtime_ns, spec.sha256[k]] for k, s in status.items()}


def _write_stamp(spec: Spec, folder: Path) -> None:
    (folder / _STAMP).write_text(json.dumps(_stamp(spec, folder), indent=1))
