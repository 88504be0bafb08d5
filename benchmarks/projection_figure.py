"""The figure of `benchmarks.projection`: time by size, and by number of devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

_OURS = "#c8442d"
_COLORS = {
    "sparsejax, cold": _OURS, "sparsejax, warm": "#e8a08f", "a copy": "#1b2a41",
    "one read": "#9aa5b1", "np.partition": "#3a7d44", "jax.lax.top_k": "#5b6bbf",
    "jnp.sort": "#8e5ea2", "torch.topk": "#b8860b", "torch.kthvalue": "#6b4f2a",
}  # fmt: skip
_SHARE = 0.02


def plot(rows: Sequence[Mapping[str, Any]], devices: Mapping[str, Any], path: Path) -> None:
    """Plot the rows that keep 2 % of the weights, and the simulated devices, as a PNG file."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    _sizes(left, [row for row in rows if row["share"] == _SHARE] or rows)
    _devices(right, devices)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _sizes(axis: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    names = [name for name in _COLORS if any(name in row["median"] for row in rows)]
    for name in names:
        there = [row for row in rows if name in row["median"]]
        axis.plot(
            [row["size"] for row in there],
            [1e3 * row["median"][name] for row in there],
            color=_COLORS[name],
            linestyle="--" if name in ("a copy", "one read") else "-",
            linewidth=2.5 if name.startswith("sparsejax") else 1.5,
            marker="o",
            markersize=4,
            label=name,
        )
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("weights")
    axis.set_ylabel("milliseconds, median")
    axis.set_title(f"Keep {rows[0]['share']:.0%} of the weights (the rest is left out if too slow)")
    axis.grid(alpha=0.25)
    axis.legend(fontsize=8, ncols=2)


def _devices(axis: Axes, devices: Mapping[str, Any]) -> None:
    counts = list(devices["seconds"])
    places = range(len(counts))
    for shift, name in ((-0.2, "a copy"), (0.2, "sparsejax, cold")):
        heights = [1e3 * devices["seconds"][count][name] for count in counts]
        bars = axis.bar(
            [place + shift for place in places], heights, 0.38, color=_COLORS[name], label=name
        )
        axis.bar_label(bars, fmt="%.0f", fontsize=8)
    axis.set_xticks(places, counts)
    axis.set_xlabel("simulated devices sharing the same cores")
    axis.set_ylabel("milliseconds, median")
    axis.set_title(f"{devices['size']:,} weights, sharded")
    axis.grid(alpha=0.25, axis="y")
    axis.legend(fontsize=8)
