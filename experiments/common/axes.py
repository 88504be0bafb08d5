"""Axes of figures."""

from __future__ import annotations

from matplotlib.axes import Axes

_TICKS = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10, 12, 15, 20, 30, 50, 90)


def plain_ticks(axes: Axes) -> None:
    """Write the ticks of a logarithmic axis of errors in per cent as plain numbers."""
    low, high = axes.get_ylim()
    ticks = [tick for tick in _TICKS if low <= tick <= high]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
