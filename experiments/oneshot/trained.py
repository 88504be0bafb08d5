"""Errors of the methods that train, beside those of one-shot pruning."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.common.merge import rows_with_sources
from experiments.common.report import Row, read_report

_FIELDS = (
    "model",
    "dataset",
    "method",
    "preset",
    "seeds",
    "settings",
    "made_by",
    "nonzeros",
    "diverged_seeds",
)


def trained_rows(
    folder: Path | None, networks: Sequence[tuple[str, str]], final: bool
) -> list[Row]:
    """Return the rows of a report of `experiments.compare` on some networks.

    Args:
      folder: where that report is; with None there are no rows.
      networks: models with their datasets.
      final: whether to take the test errors over, too.

    Raises:
      ValueError: ``folder`` holds no report of that experiment.
    """
    if folder is None:
        return []
    content = read_report(folder)
    if content.get("experiment") != "compare":
        raise ValueError(
            f"--trained must be a folder with a report of compare; {folder} has "
            f"{'one of ' + content['experiment'] if 'experiment' in content else 'none'}"
        )
    found = []
    for row in rows_with_sources(content):
        if "test_error" not in row or (row["model"], row["dataset"]) not in networks:
            continue
        ours: dict[str, Any] = {field: row[field] for field in _FIELDS if field in row}
        kept = 100.0 if row["method"] == "dense" else float(row["settings"]["kept_percent"])
        ours |= {"name": f"trained_{row['name']}", "trained": True, "sparsity": 1 - kept / 100}
        for error in ("test_error", "validation_error") if final else ("validation_error",):
            ours[error] = row[error]
        found.append(ours)
    return found
