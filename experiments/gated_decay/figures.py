"""The figures of the experiment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from experiments.gated_decay.config import Row
from experiments.gated_decay.train import Run
from sparsejax.models import LENET5_LAYERS

_COLORS = matplotlib.color_sequences["tab10"]


def draw(folder: Path, ended: Mapping[Row, Sequence[Run]]) -> list[Path]:
    """Draw the runs (each row's first seed where one network is shown); return the PNGs."""
    first = {row: runs[0] for row, runs in ended.items()}
    return [
        curves(folder / "curves.png", first),
        weights(folder / "weights.png", first),
        filters(folder / "filters.png", first),
    ]


def curves(path: Path, runs: Mapping[Row, Run]) -> Path:
    """Density and validation error over all phases, epochs that pruned marked."""
    figure = Figure(figsize=(11, 3.4 * len(runs)), layout="constrained")
    grid = figure.subplots(len(runs), 2, squeeze=False)
    for (left, right), (row, run) in zip(grid, runs.items(), strict=True):
        before = 0.0
        for phase, color in zip(("start", "prune", "finetune"), _COLORS, strict=False):
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
    return _save(figure, path)


def weights(path: Path, runs: Mapping[Row, Run]) -> Path:
    """Histograms of the weights of each layer that are left."""
    figure = Figure(figsize=(12, 2.4 * len(runs)), layout="constrained")
    grid = figure.subplots(len(runs), len(LENET5_LAYERS), squeeze=False)
    for axes, (row, run) in zip(grid, runs.items(), strict=True):
        network = run.network()
        for axis, layer in zip(axes, LENET5_LAYERS, strict=True):
            kernel = network[f"{layer}/kernel"]
            left = kernel[kernel != 0]
            axis.hist(left, bins=41, color=_COLORS[0])
            axis.set_title(f"{row}: {layer}, {left.size:,} of {kernel.size:,}", fontsize=9)
            axis.tick_params(labelsize=7)
    return _save(figure, path)


def filters(path: Path, runs: Mapping[Row, Run]) -> Path:
    """The 5x5 filters of the first layer; what was pruned is white."""
    figure = Figure(figsize=(11, 1.5 * len(runs)), layout="constrained")
    grid = figure.subplots(len(runs), 20, squeeze=False)
    for axes, (row, run) in zip(grid, runs.items(), strict=True):
        kernel = run.network()["conv1/kernel"]
        limit = np.abs(kernel).max() or 1.0
        for number, axis in enumerate(axes):
            picture = np.ma.masked_equal(kernel[:, :, 0, number], 0)
            axis.imshow(picture, cmap="RdBu", vmin=-limit, vmax=limit)
            axis.set_xticks([])
            axis.set_yticks([])
        axes[0].set_ylabel(row, fontsize=8)
    return _save(figure, path)


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path, dpi=130, metadata={"Software": None})
    return path
