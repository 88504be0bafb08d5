"""The figures of the experiment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

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
    return [tickets(folder / "tickets.png", rows), cost(folder / "cost.png", rows)]


def tickets(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Test error of trained tickets against the weights left, and the envelope of CS."""
    figure = Figure(figsize=(7.5, 4.8), layout="constrained")
    axis = figure.subplots()
    for (method, points), color in zip(_by_method(rows).items(), _COLORS, strict=False):
        left = np.array([100 * np.mean(row["density"]) for row in points])
        error = np.array([row["test_error"]["mean"] for row in points])
        spread = [row["test_error"]["std"] for row in points]
        order = np.argsort(left)
        line = "-" if method in ("imp", "imp_continued", "one_shot", "random") else ""
        axis.errorbar(
            left[order], error[order], np.array(spread)[order], color=color, marker="o",
            markersize=3, linestyle=line, linewidth=1, elinewidth=0.5, label=_TITLES[method],
        )  # fmt: skip
        if method == "cs":
            best = np.minimum.accumulate(error[order])
            axis.step(left[order], best, where="post", color=color, linewidth=1.5, label="envelope")
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter("{x:g}")
    axis.set_xlabel("weights left, %")
    axis.set_ylabel("test error of the trained ticket, %")
    errors = [row["test_error"]["mean"] for row in rows]
    axis.set_ylim(0.9 * min(errors), min(max(errors), 6 * min(errors)))
    axis.grid(True, alpha=0.3)
    axis.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=130, metadata={"Software": None})
    return path


def cost(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Epochs of training that a mask cost against what it leaves."""
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axis = figure.subplots()
    for (method, points), color in zip(_by_method(rows).items(), _COLORS, strict=False):
        left = [100 * np.mean(row["density"]) for row in points]
        axis.scatter(
            left, [row["search_epochs"] for row in points], s=14, color=color, label=_TITLES[method]
        )
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter("{x:g}")
    axis.set_xlabel("weights left, %")
    axis.set_ylabel("epochs of search")
    axis.grid(True, alpha=0.3)
    axis.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=130, metadata={"Software": None})
    return path


def _by_method(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["method"], []).append(row)
    return found
