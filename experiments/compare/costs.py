"""Costs of the methods, relative to dense training."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from experiments.common.report import Row

AFFORDABLE = 1.1
"""Up to how many times the cost of dense training a method counts as cheap."""


class Cost(NamedTuple):
    """The time of a step over that of dense training."""

    median: float
    low: float
    """The lowest round."""
    high: float
    """The highest round."""
    error: float
    """The standard error of the median; infinite for a single round."""

    def __str__(self) -> str:
        """Return the cell of a table."""
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"

    @property
    def affordable(self) -> bool:
        """Whether the method counts as cheap."""
        return self.median <= AFFORDABLE

    @property
    def in_doubt(self) -> bool:
        """Whether the median is within its standard error of the bound."""
        return abs(self.median - AFFORDABLE) <= self.error


Costs = Mapping[str, Cost]
"""The cost of each method of a network that was timed."""


def costs_of(rows: Sequence[Row], network: str) -> dict[str, Cost]:
    """Return the costs of a network's methods, from the rows of timed runs.

    A time is compared with that of dense training before and after it.
    """
    found = {}
    for row in rows:
        if row["network"] == network and row.get("milliseconds_a_step"):
            ratios = [
                time / dense
                for time, dense in zip(
                    row["milliseconds_a_step"], row["dense_milliseconds_a_step"], strict=True
                )
            ]
            found[row["method"]] = _cost(ratios)
    return found


def _cost(ratios: Sequence[float]) -> Cost:
    several = len(ratios) > 1
    # That of a median of normal numbers is sqrt(pi / 2) times that of their mean.
    error = statistics.stdev(ratios) * math.sqrt(math.pi / 2 / len(ratios)) if several else math.inf
    return Cost(statistics.median(ratios), min(ratios), max(ratios), error)


def rounds_of(rows: Sequence[Row], network: str) -> int:
    """Return the number of rounds in which the methods of a network took turns."""
    every = [row for row in rows if row["network"] == network and "milliseconds_a_step" in row]
    return max((len(row["seeds"]) for row in every), default=0)
