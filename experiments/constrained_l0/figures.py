"""The figures of the experiment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from experiments.common.report import Row
from experiments.common.runner import Picture

_COLORS = matplotlib.color_sequences["tab10"]
_LABELS: Mapping[str, str] = {
    "mlp_33": "nuPI with an annealed bound (ours)",
    "mlp_33_restarts": "dual ascent with restarts, rate 1e-3",
    "mlp_33_ascent": "dual ascent without restarts, rate 1e-3",
    "mlp_33_published": "dual ascent with restarts, rate 1e-4 (published)",
}


def figures(rows: Sequence[Row], ended: Mapping[str, Sequence[Any]]) -> dict[str, Picture]:
    """The figures that the rows that ended allow."""
    del rows
    drawn: dict[str, Picture] = {}
    moving = {row: runs for row, runs in ended.items() if row in _LABELS}
    if moving:
        drawn["dynamics.png"] = dynamics(moving)
    if "controllability" in ended:
        drawn["controllability.png"] = controllability(ended["controllability"])
    single = {row: ended[row][0] for row in ended if row not in ("controllability", "bisection")}
    if single:
        drawn["gates.png"] = gate_histograms(single)
    return drawn


def dynamics(rows: Mapping[str, Sequence[Any]]) -> Figure:
    """Density, multiplier and error against the step, a line for each seed."""
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    axes = figure.subplots(1, 3)
    titles = ("expected density", "multiplier", "validation error, %")
    for (row, runs), color in zip(rows.items(), _COLORS, strict=False):
        for number, run in enumerate(runs):
            metrics = run.metrics()
            steps = [entry["step"] for entry in metrics]
            for axis, key in zip(axes, ("density", "largest_multiplier", "error"), strict=True):
                axis.plot(
                    steps, [entry[key] for entry in metrics], color=color, linewidth=1, alpha=0.8,
                    label=_LABELS[row] if number == 0 else None,
                )  # fmt: skip
    target = next(iter(rows.values()))[0].settings["target"]
    axes[0].axhline(target, color="black", linewidth=0.8, linestyle="--")
    axes[0].annotate(
        f"target {target:g}", (0.02, target), xycoords=("axes fraction", "data"),
        xytext=(0, -11), textcoords="offset points", fontsize=8,
    )  # fmt: skip
    axes[0].set_ylim(0, 1)
    axes[2].set_yscale("log")
    axes[2].set_yticks([1.5, 2, 3, 5, 10], labels=["1.5", "2", "3", "5", "10"])
    axes[2].minorticks_off()
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step")
        axis.grid(True, alpha=0.3)
    axes[0].legend(frameon=False, fontsize=8, loc="upper right")
    return figure


def controllability(runs: Sequence[Any]) -> Figure:
    """Reached against requested density, and the error at each."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    results = [run.result() for run in runs]
    targets = np.array([100 * result["settings"]["target"] for result in results])
    reached = np.array([100 * result["expected_density"] for result in results])
    purged = np.array([100 * result["density"] for result in results])
    ends = [0, 100]
    left.plot(ends, ends, color="black", linewidth=0.8, linestyle="--", label="as requested")
    left.scatter(targets, purged, s=28, color=_COLORS[1], marker="x", label="after purging")
    left.scatter(targets, reached, s=22, color=_COLORS[0], label="expected density", zorder=3)
    left.set_xlim(0, 100)
    left.set_ylim(0, 100)
    left.set_ylabel("density reached, % of the parameters")
    left.legend(frameon=False)
    errors = np.array([result["test_error"] for result in results])
    means = [(target, errors[targets == target].mean()) for target in np.unique(targets)]
    right.plot(*zip(*means, strict=True), color=_COLORS[0], linewidth=1)
    right.scatter(targets, errors, s=22, color=_COLORS[0])
    right.set_ylabel("test error at the end, %")
    right.set_ylim(0, 1.15 * errors.max())
    for axis in (left, right):
        axis.set_xlabel("requested density, %")
        axis.grid(True, alpha=0.3)
    return figure


def gate_histograms(rows: Mapping[str, Any]) -> Figure:
    """Log alpha of every gate at the end, a row for each run, a column for each layer."""
    layers = {row: run.log_alpha() for row, run in rows.items()}
    columns = max(map(len, layers.values()))
    figure = Figure(figsize=(3 * columns, 1.9 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes, (row, gates) in zip(grid, layers.items(), strict=True):
        settings = rows[row].settings
        low, high = np.min(settings["log_alpha_low"]), np.max(settings["log_alpha_high"])
        for axis, (layer, values) in zip(axes, gates.items(), strict=False):
            axis.hist(values, bins=np.linspace(low, high, 41), color=_COLORS[0])
            axis.set_title(f"{row}: {layer}, {values.size} gates", fontsize=8)
            axis.set_xlabel(r"log $\alpha$", fontsize=8)
            axis.set_yscale("symlog", linthresh=1)
            axis.set_ylim(0)
            axis.tick_params(labelsize=7)
        for axis in axes[len(gates) :]:
            axis.set_visible(False)
    return figure
