"""``python -m experiments.common.rewrite FOLDER``: write a report anew from its report.json.

Nothing is trained and no number changes: report.md gets today's wording, as do the figures that
are drawn from the rows alone.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import tyro

from experiments.common.runner import command_line, rewrite


@dataclasses.dataclass(frozen=True)
class Config:
    """Write report.md and figures anew from report.json."""

    folder: tyro.conf.Positional[Path]
    """Folder of report.json."""


if __name__ == "__main__":
    command_line(Config, "experiments.common.rewrite", lambda config, _: rewrite(config.folder))
