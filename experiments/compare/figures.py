"""Test error against weights left, and training cost against test error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from experiments.common.axes import plain_ticks
from experiments.common.report import Row
from experiments.compare.costs import Costs
from experiments.compare.methods import METHODS, names

_COLORS = ("#1b6ca8", "#d1495b", "#2e8b57", "#8e5ea2", "#c77d0a", "#5a5a5a", "#17a2b8")
_MARKERS = "osD^v"

ByBudget = Mapping[str, Mapping[str, Row]]


def _style(method: str) -> dict[str, Any]:
    place = names().index(method) - 1
    return {
        "color": _COLORS[place % len(_COLORS)],
        "marker": _MARKERS[place % len(_MARKERS)],
        "linestyle": "-" if place < len(_COLORS) else "--",
        "markersize": 5,
    }


def _new_figure(panels: int = 1) -> tuple[Figure, list[Any]]:
    """A figure of at most two panels side by side, with room for a legend, and its panels."""
    columns = min(panels, 2)
    rows = -(-panels // columns)
    figure = Figure(figsize=(5.0 * columns + 3.5, 4.8 * rows), layout="constrained")
    every = list(figure.subplots(rows, columns, squeeze=False).flat)
    for unused in every[panels:]:
        unused.remove()
    return figure, every[:panels]


def errors(by_budget: ByBudget) -> Figure:
    """A line for each method, with sample standard deviations as bars."""
    figure, (axes,) = _new_figure()
    (dense,) = by_budget["100"].values()
    budgets = [budget for budget in by_budget if budget != "100"]
    methods = [name for name in names() if any(name in by_budget[b] for b in budgets)]
    last = by_budget[budgets[-1]]
    # The legend lists methods as their lines end at the smallest budget, the worst on top.
    methods.sort(key=lambda name: -last[name]["test_error"]["mean"] if name in last else 0)
    for name in methods:
        there = [
            (float(b), by_budget[b][name]["test_error"]) for b in budgets if name in by_budget[b]
        ]
        axes.errorbar(
            [kept for kept, _ in there],
            [found["mean"] for _, found in there],
            [found["std"] for _, found in there],
            label=METHODS[name].title,
            capsize=2,
            linewidth=1.3,
            **_style(name),
        )
    axes.axhline(
        dense["test_error"]["mean"], color="black", linewidth=0.8, linestyle=":", label="dense"
    )
    axes.set(xscale="log", yscale="log", xlabel="weights left (%)", ylabel="test error (%)")
    axes.invert_xaxis()
    ticks = [float(b) for b in budgets]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    plain_ticks(axes)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    return figure


def costs(by_budget: ByBudget, of_methods: Costs) -> Figure:
    """Test error against the time of a step, that of dense training being 1, for each budget.

    The bars are the lowest and highest round. Methods that were not timed are left out.
    """
    (dense,) = by_budget["100"].values()
    budgets = [budget for budget in by_budget if budget != "100"]
    figure, panels = _new_figure(len(budgets))
    for axes, budget in zip(panels, budgets, strict=True):
        for name, row in by_budget[budget].items():
            if name not in of_methods:
                continue
            found, (median, low, high, _) = row["test_error"], of_methods[name]
            axes.errorbar(
                [median], [found["mean"]], [found["std"]], [[median - low], [high - median]],
                capsize=2, label=METHODS[name].title, **_style(name) | {"linestyle": "none"},
            )  # fmt: skip
        axes.axhline(
            dense["test_error"]["mean"], color="black", linewidth=0.8, linestyle=":", label="dense"
        )
        axes.set(
            title=f"{budget} % of the weights",
            xlabel="time of a step, dense training = 1",
            yscale="log",
        )
        plain_ticks(axes)
        axes.grid(alpha=0.3)
        axes.set_ylabel("test error (%)")
    handles: dict[str, Any] = {}
    for axes in panels:  # some methods are in one of them only
        handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(
        handles.values(), handles.keys(), loc="outside right upper", fontsize=8, frameon=False
    )
    return figure
