"""The record of a run: rows of numbers as JSON lines, for TensorBoard and on a terminal."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from sparsejax._optional import optional

if TYPE_CHECKING:
    from tqdm import tqdm

_SHOWN = ("loss", "error", "density")  # in the progress bar, where a row has them


class MetricLog:
    """Write rows to ``metrics.jsonl`` in a folder and, beside it, to a TensorBoard event file.

    The files are opened when the first row is written. Rows of that step and of later ones that a
    run has left before it was killed are dropped then, since they are about to be written again.

    Args:
      folder: the folder of the run, which is made if missing.

    Raises:
      ImportError: the package ``tensorboardX`` is missing.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self._writer = optional(
            "tensorboardX", "tensorboardX", "experiments", "MetricLog needs"
        ).SummaryWriter
        self._folder = Path(folder)
        self._file: IO[str] | None = None
        self._board: Any = None

    def write(self, row: Mapping[str, float]) -> None:
        """Append a row; ``row["step"]``, the number of a step, is its place on every axis."""
        step = int(row["step"])
        if self._file is None:
            self._open(step)
        assert self._file is not None
        self._file.write(json.dumps(dict(row)) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        for name, value in row.items():
            if name != "step":
                self._board.add_scalar(name, value, global_step=step)

    def close(self) -> None:
        """Close both files."""
        if self._file is not None:
            self._file.close()
            self._board.close()
            self._file = None

    def _open(self, step: int) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / "metrics.jsonl"
        rows = [row for row in read_metrics(self._folder) if row["step"] < step]
        partial = path.with_name(path.name + ".partial")
        partial.write_text("".join(json.dumps(row) + "\n" for row in rows))
        os.replace(partial, path)
        self._file = open(path, "a")  # noqa: SIM115  closed by close()
        board = str(self._folder / "tensorboard")
        self._board = self._writer(board, purge_step=step, write_to_disk=True)


class ProgressBar:
    """Show on a terminal how far a run is, with its loss, error and density.

    Nothing is shown where the output is no terminal.

    Args:
      steps: the number of the last step.
      name: shown before the bar.

    Raises:
      ImportError: the package ``tqdm`` is missing.
    """

    def __init__(self, steps: int, name: str = ""):
        self._tqdm = optional("tqdm", "tqdm", "experiments", "ProgressBar needs").tqdm
        self._steps, self._name = steps, name
        self._bar: tqdm[Any] | None = None

    def write(self, row: Mapping[str, float]) -> None:
        """Move the bar to ``row["step"]``."""
        step = int(row["step"])
        if self._bar is None:
            self._bar = self._tqdm(
                total=self._steps, initial=step, desc=self._name, unit="step", disable=None,
                leave=False, miniters=1,
            )  # fmt: skip
        shown = {name: f"{row[name]:.4g}" for name in _SHOWN if name in row}
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update(step - self._bar.n)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def read_metrics(folder: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Read the rows of ``metrics.jsonl`` in the folder of a run.

    Args:
      folder: the folder of the run.

    Returns:
      The rows in the order of their steps, up to a line that a crash cut short; none where there is
      no such file.
    """
    path = Path(folder) / "metrics.jsonl"
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows
