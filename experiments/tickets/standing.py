"""Where continuous sparsification stands against iterative magnitude pruning: counts and tables."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiments.common.tables import error, markdown
from experiments.tickets import options
from experiments.tickets.points import lower

_HOW = (
    "Test error at the same density beyond 95 % sparsity (of iterative magnitude pruning "
    "interpolated between its rounds)"
)


class Count(NamedTuple):
    """At how many of how many tickets the test error is below the rival's; a tie is not ahead."""

    ahead: int
    compared: int

    def __str__(self) -> str:
        return f"{self.ahead} of {self.compared}"


@dataclasses.dataclass(frozen=True)
class Standing:
    """Among which tickets, all of them such as can be compared."""

    all: Count
    chosen: Count
    """On the envelope: of lower validation error than all that are sparser."""
    cheap: Count
    """Those that cost at most a fifth of the rival's epochs."""
    clear: tuple[int, int] | None
    """Ahead and behind by more than two standard errors; None where there is a single seed."""


def standing(row: Mapping[str, Any]) -> Standing | None:
    """That of a row; None where nothing has been compared."""
    compared = row.get("against_imp")
    if not compared:
        return None
    chosen = [point for point in compared if point["on_envelope"]]
    cheap = [
        point for point in compared if 5 * point["search_epochs"] <= point["rival_search_epochs"]
    ]
    clear = None
    if len(compared[0]["difference"]["values"]) > 1:
        apart = [
            point["difference"]["mean"]
            for point in compared
            if lower(2 * _standard_error(point), abs(point["difference"]["mean"]))
        ]
        ahead = sum(difference < 0 for difference in apart)
        clear = ahead, len(apart) - ahead
    return Standing(_count(compared), _count(chosen), _count(cheap), clear)


def comparison(row: Mapping[str, Any]) -> list[str]:
    """For the report of a network: the counts in a sentence, and every ticket in a table."""
    counts = standing(row)
    if counts is None:
        return []
    sentence = (
        f"{_HOW}: continuous sparsification is ahead at {counts.all} tickets, at {counts.chosen} "
        f"that one would choose by validation (the envelope), and at {counts.cheap} that cost at "
        "most a fifth of the other's epochs"
    )
    if counts.clear:
        sentence += (
            "; by more than two standard errors of the seeds' differences it is ahead at "
            f"{counts.clear[0]} and behind at {counts.clear[1]}"
        )
    header = [
        "weights left", "continuous sparsification", "epochs",
        "iterative magnitude pruning", "epochs", "difference", "on the envelope",
    ]  # fmt: skip
    cells = [
        [
            f"{point['density']:.2%}",
            f"{point['test_error']:.2f} %",
            str(point["search_epochs"]),
            f"{point['rival_test_error']:.2f} %",
            f"{point['rival_search_epochs']:.0f}",
            f"{point['difference']['mean']:+.2f}"
            + (f" ± {_standard_error(point):.2f}" if counts.clear else ""),
            "yes" if point["on_envelope"] else "",
        ]
        for point in row["against_imp"]
    ]
    return [f"{sentence}.", "", *markdown(header, cells), ""]


def overview(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """For the README: the counts of all networks in one table."""
    header = [
        "network", "dense: test error", "ahead", "ahead on the envelope",
        "ahead at a fifth of the epochs", "clearly ahead", "clearly behind",
    ]  # fmt: skip
    cells = []
    compared = [(row, f"{row['model']} on {row['dataset']}") for row in rows]
    compared = [(row, name) for row, name in compared if standing(row)]
    names = [name for _, name in compared]
    for row, name in compared:
        if counts := standing(row):
            clear = ["(one seed)"] * 2 if counts.clear is None else map(str, counts.clear)
            several = names.count(name) > 1
            cells.append(
                [
                    f"{name}, {options.title(row['settings'])}" if several else name,
                    error(row["dense"]["test_error"]),
                    *map(str, (counts.all, counts.chosen, counts.cheap)),
                    *clear,
                ]
            )
    how = (
        f"{_HOW}: at how many of its tickets continuous sparsification has the lower one, of those "
        "that one would choose (the envelope: of lower validation error than all that are "
        "sparser), of those found in a fifth of the epochs, and clearly so: by more than two "
        "standard errors of the seeds' differences."
    )
    return [how, "", *markdown(header, cells)]


def _count(points: Sequence[Mapping[str, Any]]) -> Count:
    ahead = sum(lower(point["test_error"], point["rival_test_error"]) for point in points)
    return Count(ahead, len(points))


def _standard_error(point: Mapping[str, Any]) -> float:
    """Of the mean difference, paired by seed."""
    difference = point["difference"]
    return difference["std"] / math.sqrt(len(difference["values"]))
