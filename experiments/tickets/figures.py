"""The figures of the experiment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from experiments.tickets import options
from experiments.tickets.points import density, envelope
from experiments.tickets.rows import group, overlaps

_COLORS = matplotlib.color_sequences["tab10"]
_TITLES = {
    "cs": "continuous sparsification, all runs",
    "imp": "iterative magnitude pruning",
    "imp_continued": "the same without rewinding",
    "one_shot": "one-shot magnitude pruning",
    "random": "random masks",
    "l0": "hard-concrete l0",
}


def draw(folder: Path, rows: Sequence[Mapping[str, Any]]) -> list[Path]:
    """Draw the rows of the report; return the PNGs."""
    name = group(rows[0])
    drawn = [
        tickets(folder / f"{name}_tickets.png", rows),
        cost(folder / f"{name}_cost.png", rows),
    ]
    if overlaps(rows):
        drawn.append(overlap(folder / f"{name}_overlap.png", rows))
    return drawn


def tickets(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Test error of trained tickets against the weights left, and the envelope of CS."""
    figure = Figure(figsize=(7.5, 4.8), layout="constrained")
    axis = figure.subplots()
    for row in rows:
        points = sorted(row["points"], key=density)
        left = [100 * density(point) for point in points]
        error = [point["test_error"]["mean"] for point in points]
        spread = [point["test_error"]["std"] for point in points]
        axis.errorbar(
            left, error, spread, color=_color(row, rows), marker="o", markersize=3,
            linestyle="" if row["method"] in ("cs", "l0") else "-", linewidth=1, elinewidth=0.5,
            label=_label(row, rows),
        )  # fmt: skip
        if row["method"] == "cs":
            line = envelope(points)
            axis.step(
                [100 * density(point) for point in line],
                [point["test_error"]["mean"] for point in line],
                where="post", color=_color(row, rows), linewidth=1.5,
                label="its envelope, by validation",
            )  # fmt: skip
    dense = rows[0]["dense"]
    if dense:
        axis.axhline(
            dense["test_error"]["mean"], color="gray", linewidth=0.8, linestyle="--",
            label="the dense network",
        )  # fmt: skip
    _weights_left(axis)
    axis.set_ylabel("test error of the trained ticket, %")
    errors = [point["test_error"]["mean"] for row in rows for point in row["points"]]
    axis.set_ylim(0.9 * min(errors), min(1.1 * max(errors), 4 * min(errors)))
    return _saved(figure, axis, path)


def overlap(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """How alike the masks of different seeds are, and what chance would give."""
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axis = figure.subplots()
    for row in rows:
        points = [point for point in row["points"] if point["overlap"] is not None]
        axis.scatter(
            [100 * density(point) for point in points],
            [100 * point["overlap"] for point in points],
            s=14, color=_color(row, rows), label=_label(row, rows),
        )  # fmt: skip
    share = np.geomspace(1e-3, 1, 200)
    axis.plot(
        100 * share, 100 * share / (2 - share), color="gray", linewidth=0.8, linestyle="--",
        label="independent masks",
    )  # fmt: skip
    _weights_left(axis)
    axis.set_ylabel("overlap of the seeds' masks, %")
    return _saved(figure, axis, path)


def cost(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Epochs of training that a mask cost against what it leaves."""
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axis = figure.subplots()
    for row in rows:
        axis.scatter(
            [100 * density(point) for point in row["points"]],
            [point["search_epochs"] for point in row["points"]],
            s=14, color=_color(row, rows), label=_label(row, rows),
        )  # fmt: skip
    _weights_left(axis)
    axis.set_ylabel("epochs of search")
    return _saved(figure, axis, path)


def _alike(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """The places of the rows of the same method; there are several with several options."""
    return [place for place, other in enumerate(rows) if other["method"] == row["method"]]


def _color(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Any:
    first, *others = _alike(row, rows)
    mine = next(place for place, other in enumerate(rows) if other is row)
    if mine == first:
        return _COLORS[list(_TITLES).index(row["method"])]
    return _COLORS[len(_TITLES) + others.index(mine) % (len(_COLORS) - len(_TITLES))]


def _label(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    title = _TITLES[row["method"]]
    return title if len(_alike(row, rows)) == 1 else f"{title}, {options.title(row['settings'])}"


def _weights_left(axis: Any) -> None:
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter("{x:g}")
    axis.set_xlabel("weights left, %")


def _saved(figure: Figure, axis: Any, path: Path) -> Path:
    axis.grid(True, alpha=0.3)
    axis.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=130, metadata={"Software": None})
    return path
