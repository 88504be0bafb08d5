"""Figures of sparse networks; needs matplotlib (the ``experiments`` extra)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import Array, PyTree
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from sparsejax.inspection._live_units import layer_kernels, live_unit_masks

_INK = "#1b2a41"
_INK_ON_WHITE = ListedColormap(["white", _INK])
_CELLS_ACROSS = 300  # number of columns that a panel can resolve


def plot_pixel_maps(
    path: Path, networks: Mapping[str, PyTree[Array]], layers: Sequence[str], shape: tuple[int, int]
) -> Path:
    """Plot the number of weights that each network still has for each input pixel.

    Args:
      path: path of the PNG file to write.
      networks: parameters of the networks by their titles.
      layers: paths of the layers from input to output, as for `live_units`.
      shape: height and width of the input image.

    Returns:
      ``path``.
    """
    rows = math.ceil(len(networks) / 4)
    columns = math.ceil(len(networks) / rows)
    figure = Figure(figsize=(2.5 * columns, 3.1 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes[len(networks) :]:
        axis.set_visible(False)
    for axis, (title, params) in zip(axes, networks.items(), strict=False):
        kernel = layer_kernels(params, layers)[0]
        live = live_unit_masks(params, layers)
        counts = ((kernel != 0) & live[1][None, :]).sum(axis=1) * live[0]
        picture = np.ma.masked_equal(counts.reshape(shape), 0)
        image = axis.imshow(picture, cmap="viridis", vmin=1)
        axis.set_facecolor("#e8e8e8")
        axis.set_title(f"{title}\n{int(live[0].sum())} of {counts.size} pixels", fontsize=10)
        axis.set_xticks([])
        axis.set_yticks([])
        figure.colorbar(image, ax=axis, location="bottom", shrink=0.8, label="weights of the pixel")
    return _save(figure, path)


def plot_connectivity(
    path: Path, networks: Mapping[str, PyTree[Array]], layers: Sequence[str]
) -> Path:
    """Plot the non-zero weights of every layer (columns) of every network (rows).

    Units are sorted by the number of their remaining weights, so that dead units are at one side.

    Args:
      path: path of the PNG file to write.
      networks: parameters of the networks by their titles.
      layers: paths of the layers from input to output, as for `live_units`.

    Returns:
      ``path``.
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
            if inputs <= _CELLS_ACROSS:
                axis.imshow(
                    sorted_links, cmap=_INK_ON_WHITE, vmin=0, vmax=1, aspect="auto",
                    interpolation="nearest", extent=(0, inputs, units, 0),
                )  # fmt: skip
            else:  # cells are smaller than pixels: a dot each, so that isolated ones are visible
                rows, columns = np.nonzero(sorted_links)
                axis.scatter(columns + 0.5, rows + 0.5, s=0.8, c=_INK, marker="s", linewidths=0)
                axis.set_xlim(0, inputs)
                axis.set_ylim(units, 0)
            axis.set_title(
                f"{title}: {layers[column]}, {int(links.sum()):,} of {links.size:,}", fontsize=9
            )
            axis.set_xlabel(f"inputs ({int(live[column].sum())} live)", fontsize=8)
            axis.set_ylabel(f"units ({int(live[column + 1].sum())} live)", fontsize=8)
            axis.tick_params(labelsize=7)
    return _save(figure, path)


def plot_learning_compression(
    path: Path, series: Mapping[str, Sequence[Sequence[Mapping[str, float]]]]
) -> Path:
    """Plot the error of theta and the distance between w and theta after each L step.

    Args:
      path: path of the PNG file to write.
      series: for each title and seed the rows of its ``metrics.jsonl``, with the keys ``error``
        (in per cent) and ``distance``.

    Returns:
      ``path``.
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
    right.set_yscale("log")
    right.yaxis.set_major_formatter("{x:g}")
    left.set_yscale("log")
    left.set_yticks(
        [1, 2, 3, 5, 10, 20, 50, 100], labels=["1", "2", "3", "5", "10", "20", "50", "100"]
    )
    left.minorticks_off()
    for axis in (left, right):
        axis.set_xlabel("L step")
        axis.grid(True, which="major", alpha=0.3)
        axis.legend(frameon=False)
    return _save(figure, path)


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path, dpi=130, metadata={"Software": None})
    return path
