"""The figures of the experiment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.lc_lenet300.config import Row, is_reference
from experiments.lc_lenet300.train import Run
from sparsejax.inspection import figures
from sparsejax.models import LENET300_LAYERS
from sparsejax.training import read_metrics


def draw(folder: Path, runs: Mapping[Row, Sequence[Run]]) -> list[Path]:
    """Draw the runs (each row's first seed where one network is shown); return the PNGs.

    Both references are dense: one of them is enough to show.
    """
    shown = [row for row in runs if row != "reference_tanh" or "reference" not in runs]
    networks: dict[str, Any] = {row: runs[row][0].network() for row in shown}
    curves: dict[str, Any] = {
        row: [read_metrics(run.folder) for run in of_row]
        for row, of_row in runs.items()
        if not is_reference(row)
    }
    drawn = [
        figures.plot_pixel_maps(folder / "pixels.png", networks, LENET300_LAYERS, (28, 28)),
        figures.plot_connectivity(folder / "connectivity.png", networks, LENET300_LAYERS),
    ]
    if curves:
        path = folder / "curves.png"
        drawn.append(figures.plot_learning_compression(path, curves))
    return drawn
