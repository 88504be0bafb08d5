"""Pictures of what is left. Needs matplotlib (the ``experiments`` extra)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from sparsejax._where import PyTree
from sparsejax.inspection.live_units import layer_kernels, live_unit_masks

_INK = "#1b2a41"


def pixel_maps(
    path: Path, networks: Mapping[str, PyTree], layers: Sequence[str], shape: tuple[int, int]
) -> Path:
    """Draw, for each network, how many weights each input pixel still feeds.

    Args:
      path: of the PNG.
      networks: parameters by title.
      layers: the layers from input to output, as for `live_units`.
      shape: height and width of the input image.
    """
    figure = Figure(figsize=(2.6 * len(networks), 3.1), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(networks)))
    for axis, (title, params) in zip(axes, networks.items(), strict=True):
        kernel = layer_kernels(params, layers)[0]
        live = live_unit_masks(params, layers)
        counts = ((kernel != 0) & live[1][None, :]).sum(axis=1) * live[0]
        picture = np.ma.masked_equal(counts.reshape(shape), 0)
        image = axis.imshow(picture, cmap="viridis", vmin=1)
        axis.set_facecolor("#e8e8e8")
        axis.set_title(f"{title}\n{int(live[0].sum())} of {counts.size} pixels", fontsize=10)
        axis.set_xticks([])
        axis.set_yticks([])
        figure.colorbar(image, ax=axis, location="bottom", shrink=0.8, label="weights it feeds")
    return _save(figure, path)


def connectivity(path: Path, networks: Mapping[str, PyTree], layers: Sequence[str]) -> Path:
    """Draw the non-zero weights of every layer (columns) of every network (rows).

    Units are ordered by how many weights they have left, so that dead ones gather at one side.
    """
    figure = Figure(figsize=(3.4 * len(layers), 2.6 * len(networks)), layout="constrained")
    grid = figure.subplots(len(networks), len(layers), squeeze=False)
    for axes, (title, params) in zip(grid, networks.items(), strict=True):
        live = live_unit_masks(params, layers)
        kernels = layer_kernels(params, layers)
        carrying = [
            (kernel != 0) & live[i][:, None] & live[i + 1][None, :]
            for i, kernel in enumerate(kernels)
        ]
        orders = [np.argsort(-carrying[0].sum(axis=1), kind="stable")]
        orders += [np.argsort(-links.sum(axis=0), kind="stable") for links in carrying]
        for column, (axis, links) in enumerate(zip(axes, carrying, strict=True)):
            sorted_links = links[orders[column]][:, orders[column + 1]].T
            units, inputs = sorted_links.shape
            axis.set_xlim(0, inputs)
            axis.set_ylim(units, 0)
            if sorted_links.mean() > 0.5:
                axis.set_facecolor(_INK)
            else:
                rows, columns = np.nonzero(sorted_links)
                size = min(4.0, 5e3 / inputs / units * 8 + 0.5)
                axis.scatter(columns + 0.5, rows + 0.5, s=size, c=_INK, marker="s", linewidths=0)
            axis.set_title(
                f"{title}: {layers[column]}, {int(links.sum()):,} of {links.size:,}", fontsize=9
            )
            axis.set_xlabel(f"inputs ({int(live[column].sum())} live)", fontsize=8)
            axis.set_ylabel(f"units ({int(live[column + 1].sum())} live)", fontsize=8)
            axis.tick_params(labelsize=7)
    return _save(figure, path)


def learning_compression_curves(
    path: Path, series: Mapping[str, Sequence[Sequence[Mapping[str, float]]]]
) -> Path:
    """Draw the error of theta and the distance between w and theta after each L step.

    Args:
      path: of the PNG.
      series: by title, for each seed the rows of its ``metrics.jsonl`` (``error``, ``distance``).
    """
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    colors = matplotlib.color_sequences["tab10"]
    for (title, seeds), color in zip(series.items(), colors, strict=False):
        for number, rows in enumerate(seeds):
            l_steps = np.arange(1, len(rows) + 1)
            label = title if number == 0 else None
            for axis, key in ((left, "error"), (right, "distance")):
                values = [row[key] for row in rows]
                axis.plot(l_steps, values, color=color, linewidth=1.2, alpha=0.8, label=label)
    left.set_ylabel("validation error of the compressed network, %")
    right.set_ylabel("distance ‖w - θ‖₂")
    for axis in (left, right):
        axis.set_xlabel("L step")
        axis.set_yscale("log")
        axis.grid(True, which="major", alpha=0.3)
        axis.legend(frameon=False)
    left.yaxis.set_major_formatter("{x:g}")
    return _save(figure, path)


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path, dpi=110, metadata={"Software": None})
    return path
