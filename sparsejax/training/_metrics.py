"""The record of a run: a row of numbers per report, as JSON lines and for TensorBoard."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter


class MetricLog:
    """Rows of metrics in ``metrics.jsonl`` and, beside it, a TensorBoard event file.

    Args:
      folder: the run's folder.
      after_step: rows of later steps are dropped, since the run is about to write them again.
    """

    def __init__(self, folder: str | os.PathLike[str], after_step: int = 0):
        self._path = Path(folder) / "metrics.jsonl"
        rows = [row for row in read_metrics(folder) if row["step"] <= after_step]
        partial = self._path.with_name(self._path.name + ".partial")
        partial.write_text("".join(json.dumps(row) + "\n" for row in rows))
        os.replace(partial, self._path)
        self._file = open(self._path, "a")  # noqa: SIM115  closed by close()
        self._board = SummaryWriter(
            str(Path(folder) / "tensorboard"), purge_step=after_step + 1, write_to_disk=True
        )

    def write(self, row: Mapping[str, float]) -> None:
        """Append a row; ``row["step"]`` is its place on every axis."""
        self._file.write(json.dumps(dict(row)) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        for name, value in row.items():
            if name != "step":
                self._board.add_scalar(name, value, global_step=int(row["step"]))

    def close(self) -> None:
        """Close both files."""
        self._file.close()
        self._board.close()


def read_metrics(folder: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The rows of ``metrics.jsonl`` in a run's folder, up to a line cut short by a crash."""
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
