"""Files that are checked against one checksum, kept in the data folder and fetched if need be."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

import filelock

from experiments.data.fetch import by_a_route, not_available
from experiments.data.routes import Route
from experiments.data.specs import DataError


@dataclass(frozen=True)
class FileSet:
    """Files with a name, their checksum, and the routes to them."""

    name: str
    """The folder below the data folder."""
    title: str
    pattern: str
    """The glob pattern of the files' names."""
    description: str
    """What messages call the files that a user can provide."""
    bytes: int
    """Size of all files together."""
    sha256: str
    """Checksum of the contents of all files, in the order of their names."""
    remote: tuple[Route, ...]

    def find(self, folder: Path) -> list[Path]:
        """Return the files in a folder, in the order of their names."""
        return sorted(folder.glob(self.pattern))

    def check(self, folder: Path) -> list[Path]:
        """Return the files in a folder if they are the right ones.

        Raises:
          DataError: their size or their checksum differs.
        """
        files = self.find(folder)
        size = sum(file.stat().st_size for file in files)
        if size != self.bytes:
            raise DataError(
                f"{self.title} in {folder}: {len(files)} files of {size} bytes, not {self.bytes}"
            )
        digest = hashlib.sha256()
        for file in files:
            with open(file, "rb") as content:
                while piece := content.read(1 << 20):
                    digest.update(piece)
        if digest.hexdigest() != self.sha256:
            raise DataError(
                f"{self.title} in {folder}: SHA-256 is {digest.hexdigest()}, not {self.sha256}; "
                "these are not the published files"
            )
        return files


def fetch_files(files: FileSet, data_dir: Path) -> list[Path]:
    """Return the files, which lie in their own folder below ``data_dir``.

    If that folder does not hold them they are fetched into it, by the first route that gives the
    right ones. Processes that want the same files at the same time wait for the one that fetches.

    Args:
      files: the files.
      data_dir: the data folder, which exists.

    Returns:
      Their paths, in the order of their names.

    Raises:
      DataError: every route failed (the message lists them), or the folder holds wrong files.
    """
    folder = data_dir / files.name
    with filelock.FileLock(data_dir / f".{files.name}.lock"):
        if files.find(folder):
            return files.check(folder)
        tried = [f"your files: {files.description} is not in {folder}"]

        def take(downloaded: Path, _: Route) -> list[Path]:
            found = files.check(downloaded)
            folder.mkdir(exist_ok=True)
            return [Path(shutil.move(file, folder / file.name)) for file in found]

        fetched = by_a_route(files.remote, data_dir, files.name, take, tried)
    if fetched is not None:
        return fetched
    raise not_available(
        files.title,
        tried,
        f"Put {files.description} into {folder}, or set SPARSEJAX_DATA_DIR to the folder that "
        f"holds {files.name}/, and run again.",
    )
