"""The figures of the experiment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from experiments.common.runner import Picture
from experiments.tickets.config import option_title
from experiments.tickets.points import density, pareto_front

_COLORS = matplotlib.color_sequences["tab10"]
_TITLES = {
    "cs": "continuous sparsification",
    "imp": "iterative magnitude pruning",
    "imp_continued": "the same without rewinding",
    "one_shot": "one-shot magnitude pruning",
    "random": "random masks",
    "l0": "hard-concrete l0",
}


def figures(
    rows: Sequence[Mapping[str, Any]], ended: Mapping[str, Sequence[Any]]
) -> dict[str, Picture]:
    """The figures of each network and dataset, from their rows alone."""
    del ended
    drawn: dict[str, Picture] = {}
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(f"{row['model']}_{row['dataset']}", []).append(row)
    for name, its in groups.items():
        drawn[f"{name}_tickets.png"] = tickets(its)
        drawn[f"{name}_cost.png"] = cost(its)
        if any(point["mask_jaccard"] is not None for row in its for point in row["points"]):
            drawn[f"{name}_jaccard.png"] = mask_jaccard(its)
    return drawn


def tickets(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Test error of trained tickets against the weights left, and a Pareto front."""
    figure = Figure(figsize=(7.5, 5.4), layout="constrained")
    axis = figure.subplots()
    for row in rows:
        points = sorted(row["points"], key=density)
        left = [100 * density(point) for point in points]
        error = [point["test_error"]["mean"] for point in points]
        spread = [point["test_error"]["std"] for point in points]
        axis.errorbar(
            left, error, spread, color=_color(row, rows), marker="o", markersize=3,
            linestyle="" if row["method"] in ("cs", "l0") else "-", linewidth=1, elinewidth=0.5,
            label=None if row["method"] == "cs" else _label(row, rows),
        )  # fmt: skip
        if row["method"] == "cs":
            line = pareto_front(points)
            axis.step(
                [100 * density(point) for point in line],
                [point["test_error"]["mean"] for point in line],
                where="post", color=_color(row, rows), linewidth=1.5, marker="o", markersize=3,
                label=_label(row, rows),
            )  # fmt: skip
    dense = rows[0]["dense"]
    if dense:
        axis.axhline(
            dense["test_error"]["mean"], color="gray", linewidth=0.8, linestyle="--",
            label="the dense network",
        )  # fmt: skip
    _weights_left(axis)
    axis.set_ylabel("test error of the trained ticket, %")
    if any(row["method"] == "cs" for row in rows):
        axis.set_title(
            "continuous sparsification: the lines are Pareto fronts by validation", size=9
        )
    errors = [point["test_error"]["mean"] for row in rows for point in row["points"]]
    axis.set_ylim(0.9 * min(errors), min(1.1 * max(errors), 4 * min(errors)))
    return _finished(figure, axis)


def mask_jaccard(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Jaccard index of the masks of different seeds, and its expectation for random masks."""
    figure = Figure(figsize=(7.5, 4.9), layout="constrained")
    axis = figure.subplots()
    for row in rows:
        points = [point for point in row["points"] if point["mask_jaccard"] is not None]
        axis.scatter(
            [100 * density(point) for point in points],
            [100 * point["mask_jaccard"] for point in points],
            s=14, color=_color(row, rows), label=_label(row, rows),
        )  # fmt: skip
    share = np.geomspace(1e-3, 1, 200)
    axis.plot(
        100 * share, 100 * share / (2 - share), color="gray", linewidth=0.8, linestyle="--",
        label="independent masks",
    )  # fmt: skip
    _weights_left(axis)
    axis.set_ylabel("Jaccard index of the seeds' masks, %")
    return _finished(figure, axis)


def cost(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Epochs of search against the weights left."""
    figure = Figure(figsize=(7.5, 4.9), layout="constrained")
    axis = figure.subplots()
    for row in rows:
        axis.scatter(
            [100 * density(point) for point in row["points"]],
            [point["search_epochs"] for point in row["points"]],
            s=14, color=_color(row, rows), label=_label(row, rows),
        )  # fmt: skip
    _weights_left(axis)
    axis.set_ylabel("epochs of search")
    return _finished(figure, axis)


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
    return title if len(_alike(row, rows)) == 1 else f"{title}, {option_title(row['settings'])}"


def _weights_left(axis: Any) -> None:
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter("{x:g}")
    axis.set_xlabel("weights left, %")


def _finished(figure: Figure, axis: Any) -> Figure:
    axis.grid(True, alpha=0.3)
    # Outside, where it hides no point.
    figure.legend(loc="outside lower left", ncols=2, frameon=False, fontsize=8)
    return figure
