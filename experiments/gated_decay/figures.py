"""The figures of the experiment."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from experiments.common.report import Row, titled
from experiments.common.runner import Picture
from experiments.gated_decay.config import CITED, PHASES
from sparsejax.models import LENET5_LAYERS, VGG16_LAYERS

_ACROSS = 4  # histograms
_FILTERS = 20
_LAYERS = {"lenet5": LENET5_LAYERS, "vgg16": VGG16_LAYERS}
_MARKERS = "x+*^vDs"
_COLORS = matplotlib.color_sequences["tab10"]


def figures(rows: Sequence[Row], ended: Mapping[str, Sequence[Any]]) -> dict[str, Picture]:
    """Accuracy against size for all seeds, and the first seed of each row in detail."""
    found: dict[str, Picture] = {"frontier.png": frontier(rows)}
    if not ended:
        return found
    first = {name: runs[0] for name, runs in ended.items()}
    return found | {
        "curves.png": curves(first),
        "weights.png": weights(first),
        "filters.png": filters(first),
    }


def frontier(rows: Sequence[Row]) -> Figure:
    """Test accuracy against parameters left, every seed, beside the published figures."""
    by_dataset: dict[Any, list[Row]] = {}
    for row in rows:
        by_dataset.setdefault(row["dataset"], []).append(row)
    cited = dict.fromkeys(method for dataset in by_dataset for method in CITED[dataset])
    markers = dict(zip(cited, itertools.cycle(_MARKERS)))
    figure = Figure(figsize=(5.5 * len(by_dataset), 5.6), layout="constrained")
    axes = figure.subplots(1, len(by_dataset), squeeze=False)[0]
    for axis, (dataset, ours) in zip(axes, by_dataset.items(), strict=True):
        for row, color in zip(ours, itertools.cycle(_COLORS)):
            left = [100 * density for density in row["density"]]
            accuracy = [100 - error for error in row["test_error"]["values"]]
            distilled = ", distilled" if "distillation" in row["method"] else ""
            label = f"ours, {row['nonzeros'][0]:,} left{distilled}"
            axis.scatter(left, accuracy, s=40, color=color, label=label)
        for method, (accuracy_, sparsity) in CITED[dataset].items():
            axis.scatter(
                100 - sparsity, accuracy_, s=60, color="black", marker=markers[method], label=method
            )
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter("{x:g}" if dataset != "mnist" else NullFormatter())
        axis.set_xlabel("parameters left (%)", fontsize=12)
        axis.set_ylabel("test accuracy (%)", fontsize=12)
        axis.set_title(titled(ours[0]["model"], dataset), fontsize=13)
        axis.tick_params(which="both", labelsize=11)
        axis.margins(0.12)
        axis.grid(True, alpha=0.3)
        axis.legend(
            frameon=False, fontsize=10, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.16)
        )
    return figure


def curves(runs: Mapping[str, Any]) -> Figure:
    """Density and validation error over all phases, epochs that pruned marked."""
    figure = Figure(figsize=(11, 3.4 * len(runs)), layout="constrained")
    grid = figure.subplots(len(runs), 2, squeeze=False)
    for (left, right), (row, run) in zip(grid, runs.items(), strict=True):
        before = 0.0
        for phase, color in zip(PHASES, _COLORS, strict=False):
            metrics = run.metrics(phase)
            if not metrics:
                continue
            epochs = np.array([before + entry["epoch"] for entry in metrics])
            density = 100 * np.array([entry["density"] for entry in metrics])
            left.plot(epochs, density, color=color, label=phase)
            errors = np.array([entry["error"] for entry in metrics])
            right.plot(epochs, errors, color=color, label=phase)
            if phase == "prune":
                counts = np.array([entry["prunings"] for entry in metrics])
                pruned = np.diff(counts, prepend=0) > 0
                left.scatter(
                    epochs[pruned], density[pruned], s=8, color=color, label="epochs that pruned"
                )
                bound = 100 * (1 - run.settings["lower_bound"])
                right.axhline(bound, color="black", linewidth=0.8, linestyle="--", label="bound")
            before = epochs[-1]
        left.set_yscale("log")
        left.yaxis.set_major_formatter("{x:g}")
        left.set_ylabel(f"{row}: parameters left, %")
        right.set_ylabel("validation error, %")
        for axis in (left, right):
            axis.set_xlabel("epoch")
            axis.grid(True, alpha=0.3)
            axis.legend(frameon=False, fontsize=8)
    return figure


def weights(runs: Mapping[str, Any]) -> Figure:
    """Histograms of the weights of each layer that are left."""
    panels = [
        (f"{row}: {layer}", network[layer]["kernel"])
        for row, run in runs.items()
        for network in [run.network()]
        for layer in _LAYERS[run.result()["model"]]
    ]
    lines = -(-len(panels) // _ACROSS)
    figure = Figure(figsize=(12, 2.4 * lines), layout="constrained")
    axes = figure.subplots(lines, _ACROSS, squeeze=False).flat
    for axis, (title, kernel) in zip(axes, panels, strict=False):
        left = kernel[kernel != 0]
        axis.stairs(*np.histogram(left, bins=41), fill=True, color=_COLORS[0])
        axis.set_title(f"{title}, {left.size:,} of {kernel.size:,}", fontsize=9)
        axis.tick_params(labelsize=7)
    return figure


def filters(runs: Mapping[str, Any]) -> Figure:
    """The first layer's first 20 filters, mean of the input channels; what was pruned is white."""
    figure = Figure(figsize=(11, 0.75 * len(runs)), layout="constrained")
    axes = figure.subplots(len(runs), 1, squeeze=False)[:, 0]
    for axis, (row, run) in zip(axes, runs.items(), strict=True):
        first, *_ = _LAYERS[run.result()["model"]]
        kernel = run.network()[first]["kernel"].mean(axis=2)
        limit = np.abs(kernel).max() or 1.0
        shown = np.concatenate(list(np.moveaxis(kernel, -1, 0)[:_FILTERS]), axis=1)
        picture = np.ma.masked_equal(shown, 0)
        axis.imshow(picture, cmap="RdBu", vmin=-limit, vmax=limit)
        height, width = kernel.shape[:2]
        edges = np.arange(width, shown.shape[1], width) - 0.5
        axis.vlines(edges, -0.5, height - 0.5, color="black", linewidth=1.5)
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_ylabel(row, fontsize=8, rotation=0, ha="right", va="center")
    return figure
