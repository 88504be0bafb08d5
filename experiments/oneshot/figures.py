"""Perplexity ratios by row, and errors of image networks against the weights removed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from experiments.common.axes import plain_ticks
from experiments.common.report import Row

_COLORS = ("#5a5a5a", "#1b6ca8", "#2e8b57", "#d1495b", "#8e5ea2")
_MARKERS = "osD^v"


def perplexities(rows: Sequence[Row]) -> Figure:
    """Plot a bar for each row, the worst on top, with sample standard deviations.

    Where some rows were evaluated on the test texts, the others are left out.
    """
    field = "perplexity_ratio"
    if not any(field in row for row in rows):
        field = "validation_perplexity_ratio"
    known = sorted((row for row in rows if field in row), key=lambda row: row[field]["mean"])
    figure = Figure(figsize=(7.5, 1.2 + 0.36 * len(known)), layout="constrained")
    axes = figure.subplots()
    means = [row[field]["mean"] for row in known]
    bars = axes.barh(
        [row["name"] for row in known],
        means,
        xerr=[row[field]["std"] for row in known],
        color=_COLORS[1],
        height=0.6,
    )
    axes.bar_label(bars, [f"{mean:.2f}x" for mean in means], padding=5)
    axes.axvline(1, color="black", linewidth=0.8, linestyle=":")
    split = "test" if field == "perplexity_ratio" else "validation"
    axes.set(
        xscale="log",
        xlabel=f"{split} perplexity over that of the best dense network with as much training",
    )
    axes.set_xlim(0.9, 1.5 * max(means, default=1))
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def errors(by_method: Mapping[str, Mapping[float, Row]], trained: Sequence[Row]) -> Figure:
    """Plot the errors of one-shot methods as lines, and of those that train as points."""
    figure = Figure(figsize=(6.5, 4.2), layout="constrained")
    axes = figure.subplots()
    every = [row for own in by_method.values() for row in own.values()]
    most = max(sparsity for own in by_method.values() for sparsity in own)
    beside = [row for row in trained if 0 < row["sparsity"] <= most]
    every += beside
    field = "test_error" if all("test_error" in row for row in every) else "validation_error"
    for number, (method, own) in enumerate(m for m in by_method.items() if m[0] != "dense"):
        places = sorted(own)
        axes.errorbar(
            [100 * place for place in places],
            [own[place][field]["mean"] for place in places],
            [own[place][field]["std"] for place in places],
            label=method,
            color=_COLORS[number % len(_COLORS)],
            marker=_MARKERS[number % len(_MARKERS)],
            markersize=4,
            capsize=2,
        )
    if beside:
        axes.plot(
            [100 * row["sparsity"] for row in beside],
            [row[field]["mean"] for row in beside],
            "_",
            color="black",
            markersize=9,
            label="methods that train",
        )
    for row in by_method.get("dense", {}).values():
        axes.axhline(row[field]["mean"], color="black", linewidth=0.8, linestyle=":", label="dense")
    axes.set(
        yscale="log",
        xlabel="weights removed (%)",
        ylabel=f"{field.replace('_', ' ')} (%)",
    )
    plain_ticks(axes)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
