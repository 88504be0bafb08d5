"""The figures of the sweeps, from the rows of the report alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

Rows = Mapping[str, Mapping[str, Any]]
"""The rows of the report by name."""


def figures(rows: Rows) -> dict[str, Figure]:
    """All figures by the name of their file."""
    draw = {
        "getting_started": getting_started,
        "learning_compression": learning_compression,
        "constrained_l0": constrained_l0,
        "gated_weight_decay": gated_weight_decay,
        "tickets": tickets,
    }
    return {f"{name}.png": draw[name](row) for name, row in rows.items()}


def getting_started(row: Mapping[str, Any]) -> Figure:
    """The weights of the README's example, trained and compressed, beside those of dense Adam."""
    figure, (left, right) = axes(2)
    for axis, name in ((left, "dense"), (right, "compressed")):
        weights = np.array(row[name])
        axis.plot(np.arange(len(weights)), np.where(weights, abs(weights), np.nan), "o")
        axis.set_xlim(-3, len(weights) + 2)
        axis.set_yscale("log")
        axis.set_xlabel("input")
        zeros = np.count_nonzero(weights == 0)
        axis.set_title(f"{name}: {len(weights) - zeros} weights, {zeros} exact zeros")
    left.set_ylabel("magnitude of the weight")
    right.sharey(left)
    return figure


def learning_compression(row: Mapping[str, Any]) -> Figure:
    """Validation error, and the gap that is left, against the first mu."""
    figure, (left, right) = axes(2)
    growths = sorted({run["growth"] for run in row["runs"]})
    for growth in growths:
        runs = [run for run in row["runs"] if run["growth"] == growth]
        mu = [run["mu"] for run in runs]
        label = f"times {growth:g} at each L step"
        left.plot(mu, [run["validation_error"] for run in runs], marker="o", label=label)
        right.plot(mu, [100 * run["relative_gap"] for run in runs], marker="o", label=label)
    left.axhline(row["dense_error"], color="gray", linestyle="--")
    left.annotate(
        "dense start", (0.02, row["dense_error"]), xycoords=("axes fraction", "data"), va="bottom"
    )
    left.set_ylabel(r"validation error of $\theta$, %")
    left.set_yscale("log")
    left.yaxis.set_major_formatter("{x:g}")
    left.yaxis.set_minor_formatter(NullFormatter())
    left.set_yticks([2, 5, 10, 20, 50])
    right.set_ylabel(r"$\Vert w - \theta \Vert \; / \; \Vert w \Vert$ at the end, %")
    for axis in (left, right):
        axis.set_xscale("log")
        axis.set_xlabel(r"$\mu$ in the first L step")
    right.legend()
    return figure


def constrained_l0(row: Mapping[str, Any]) -> Figure:
    """The expected density and the multiplier after each epoch."""
    figure, (left, right) = axes(2)
    for run in row["runs"]:
        epochs = np.arange(1, len(run["expected_density"]) + 1)
        label = f"ki = {run['ki']:g}: error {run['validation_error']:.2f} %"
        left.plot(epochs, 100 * np.array(run["expected_density"]), marker=".", label=label)
        right.plot(epochs, run["multiplier"], marker=".", label=label)
    left.axhline(100 * row["target"], color="gray", linestyle="--", label="asked for")
    left.set_ylabel("expected density, %")
    right.set_ylabel("multiplier")
    for axis in (left, right):
        axis.set_xlabel("epoch")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def gated_weight_decay(row: Mapping[str, Any]) -> Figure:
    """The weights left, and the error, against lambda."""
    figure, (left, right) = axes(2)
    decay = [run["decay"] for run in row["runs"]]
    smallest = min(value for value in decay if value > 0)
    left.plot(decay, [run["nonzeros"] for run in row["runs"]], marker="o")
    left.set_yscale("log")
    left.set_ylabel("weights left at the end")
    right.plot(decay, [run["validation_error"] for run in row["runs"]], marker="o")
    right.axhline(row["dense_error"], color="gray", linestyle="--", label="dense start")
    right.axhline(
        row["dense_error"] + 100 * row["tolerance"], color="gray", linestyle=":", label="bound"
    )
    right.set_ylabel("validation error, %")
    for axis in (left, right):
        axis.set_xscale("symlog", linthresh=smallest)
        axis.set_xlim(-0.3 * smallest, 2 * max(decay))
        axis.set_xlabel(r"$\lambda$ (0: pruning alone)")
    right.legend()
    return figure


def tickets(row: Mapping[str, Any]) -> Figure:
    """The share of weights in the ticket against the start of the gates."""
    figure, (axis,) = axes(1)
    for penalty in sorted({run["penalty"] for run in row["runs"]}):
        runs = [run for run in row["runs"] if run["penalty"] == penalty]
        axis.plot(
            [run["initial"] for run in runs],
            [100 * run["weights_left"] / row["weights"] for run in runs],
            marker="o",
            label=f"penalty {penalty:g}",
        )
    axis.set_xlabel("where the gates start")
    axis.set_ylabel("weights in the ticket after one round, %")
    axis.set_yscale("log")
    axis.legend()
    return figure


def axes(number: int, width: float = 4.2) -> tuple[Figure, tuple[Axes, ...]]:
    """A figure with axes in a row, each so many inches wide."""
    figure = Figure(figsize=(width * number, 3.4), layout="constrained")
    row = tuple(figure.subplots(1, number, squeeze=False)[0])
    for axis in row:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, row
