"""The figure of the experiment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.deploy.report import SPARSE

_COLORS = matplotlib.color_sequences["tab10"]


def draw(folder: Path, rows: Sequence[Mapping[str, Any]]) -> list[Path]:
    """Draw every row; return the PNGs."""
    return [forms(folder / f"{row['name']}.png", row) for row in rows]


def forms(path: Path, row: Mapping[str, Any]) -> Path:
    """Microseconds of an image alone and of one in a batch, and the bytes of the weights' files."""
    figure = Figure(figsize=(12, 3.9), layout="constrained")
    latency, batch, files = figure.subplots(1, 3)
    dispatches = [name for name in ("asynchronous", "synchronous") if name in row["forms"][0]]
    per_batch = f"µs an image, in a batch of {row['batch_size']}"
    for axis, time, images, label in (
        (latency, "latency", 1, "µs a call of one image"),
        (batch, "batch", row["batch_size"], per_batch),
    ):
        names = [form["form"] for form in row["forms"]]
        height = 0.8 / len(dispatches)
        for number, dispatch in enumerate(dispatches):
            values = [1e6 * form[dispatch][f"{time}_seconds"] / images for form in row["forms"]]
            places = [place + number * height for place in range(len(names))]
            bars = axis.barh(
                places, values, height, color=_COLORS[number], label=f"{dispatch} dispatch"
            )
            axis.bar_label(bars, [f"{value:.3g}" for value in values], padding=2, fontsize=7)
        middle = [place + height * (len(dispatches) - 1) / 2 for place in range(len(names))]
        _finish(axis, middle, names, label)
    handles, labels = latency.get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=8, ncols=2, loc="outside lower center")
    batch.set_yticklabels([])
    sizes = {file["file"]: file["bytes"] for file in row["files"]}
    if published := row["published"]["file_bytes"]:
        sizes["published, BZIP2"] = published
    bars = files.barh(range(len(sizes)), list(sizes.values()), 0.8, color=_COLORS[2])
    files.bar_label(bars, [f"{size:,}" for size in sizes.values()], padding=2, fontsize=7)
    files.set_xscale("log")
    _finish(files, list(range(len(sizes))), list(sizes), "bytes of the weights' file")
    figure.suptitle(
        f"{row['name']}: {row['nonzeros']:,} of {row['parameters']:,} parameters are not zero",
        fontsize=11,
    )
    figure.savefig(path, dpi=130, metadata={"Software": None})
    return path


def _finish(axis: Axes, places: Sequence[float], names: Sequence[str], label: str) -> None:
    axis.set_yticks(places, [name if name != SPARSE else "sparse (chosen)" for name in names])
    axis.invert_yaxis()
    axis.set_xlabel(label)
    axis.margins(x=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)
