"""The published results beside ours, from the reports of other experiments."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from experiments.guide_figures.figures import Rows, axes

LENET300 = {
    "reference": "dense",
    "l0": r"$\ell_0$: 2 % of the weights",
    "l1": r"$\ell_1$: 2.4 % of the weights",
    "l0_l2": r"$\ell_0 + \ell_2$: 2 % of the weights",
}
"""Rows of experiments.lc_lenet300 that have a published error, from the top."""
CONSTRAINED = {
    "lenet5_10": "LeNet5, at most 10 %",
    "mlp_layerwise_30": "MLP, at most 30 % of each layer",
    "mlp_33": "MLP, at most 33 %",
}
"""Rows of experiments.constrained_l0 of which the authors' saved runs are known."""
MATCHING, BEST = 0.123, 8.46
"""ResNet-20's published tickets: the density of the sparsest that is as good as the dense network,
and the test error of the best, in per cent."""
_PUBLISHED: dict[str, Any] = {"marker": "x", "color": "black", "linestyle": "", "markersize": 9}


def published_figures(results: Path) -> dict[str, Figure]:
    """The figures by the name of their file; those of missing reports are left out."""
    draw = {
        "lc_lenet300": learning_compression,
        "constrained_l0": constrained_l0,
        "tickets": tickets,
    }
    drawn = {}
    for experiment, figure in draw.items():
        file = results / experiment / "report.json"
        if file.exists():
            rows = {row["name"]: row for row in json.loads(file.read_text())["rows"]}
            drawn[f"published_{experiment}.png"] = figure(rows)
    return drawn


def learning_compression(rows: Rows) -> Figure:
    """Test errors of LeNet300, a point a seed, and the published ones."""
    figure, (axis,) = axes(1, width=6.4)
    places = np.arange(len(LENET300))
    for place, name in zip(places, LENET300, strict=True):
        errors = rows[name]["test_error"]["values"]
        label = "ours, a point a seed" if place == 0 else None
        axis.plot(errors, [place] * len(errors), "o", color="C0", label=label)
    published = [rows[name]["published"]["test_error"] for name in LENET300]
    axis.plot(published, places, label="published", **_PUBLISHED)
    axis.set_yticks(places, list(LENET300.values()))
    axis.set_ylim(len(places) - 0.5, -0.5)
    axis.set_xlabel("test error, %")
    axis.grid(axis="x", alpha=0.3)
    axis.legend(loc="upper right")
    return figure


def constrained_l0(rows: Rows) -> Figure:
    """Test error and expected density of final networks, and those of the authors' saved runs."""
    figure, (axis,) = axes(1, width=6.4)
    for number, (name, label) in enumerate(CONSTRAINED.items()):
        row, color = rows[name], f"C{number}"
        density = 100 * np.array(row["expected_density"])
        axis.plot(density, row["test_error"]["values"], "o", color=color, label=label)
        axis.axvline(100 * _target(row), color=color, linestyle="--", linewidth=1)
    saved = [rows[name]["published"]["saved_runs"] for name in CONSTRAINED]
    axis.plot(
        [100 * run["expected_density"] for run in saved],
        [run["test_error"] for run in saved],
        label="the authors' saved runs",
        **_PUBLISHED,
    )
    axis.set_xlabel("expected density, % (dashed: the constraint)")
    axis.set_ylabel("test error after the last epoch, %")
    axis.set_ylim(bottom=0)
    axis.legend(loc="lower center")
    return figure


def tickets(rows: Rows) -> Figure:
    """Tickets of ResNet-20 on CIFAR-10 after one round, and what is published of five rounds."""
    row = rows["resnet20_cifar10_cs"]
    figure, (axis,) = axes(1, width=6.4)
    points = [(100 * p["density"][0], p["test_error"]["mean"]) for p in row["points"]]
    axis.plot(*zip(*points, strict=True), "o", label="ours, one round and one seed")
    dense = row["dense"]["test_error"]["mean"]
    axis.axhline(dense, color="C0", linestyle="--", linewidth=1, label="ours, dense")
    black: dict[str, Any] = {"color": "black", "linewidth": 1}
    label = "published: the sparsest as good as dense"
    axis.axvline(100 * MATCHING, linestyle="-.", label=label, **black)
    axis.axhline(BEST, linestyle=":", label="published: the best", **black)
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xticks([2, 5, 10, 20])
    axis.set_xlabel("weights in the ticket, %")
    axis.set_ylabel("test error, %")
    axis.legend()
    return figure


def _target(row: Mapping[str, Any]) -> float:
    """The expected density that was asked for; layers with targets of their own have the same."""
    return float(np.unique(row["settings"]["target"]).item())
