"""What was found, by method: report.json, report.md and the same table on the screen."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from experiments.common.results import write_report
from experiments.common.tables import error, markdown
from experiments.tickets.config import PRESETS
from experiments.tickets.points import Point, density
from experiments.tickets.rows import Row, gathered, group, overlaps
from experiments.tickets.standing import comparison

EXPERIMENT = "tickets"
_SHORT = ("Shorter than published", "A trial of the whole way, no result to compare")
_PUBLISHED_EPOCHS = PRESETS["paper"].epochs


def rows_in(folder: Path) -> list[Row]:
    """Of the report that is there, if one is."""
    path = folder / "report.json"
    return json.loads(path.read_text())["rows"] if path.exists() else []


def write(folder: Path, command: str, ours: Sequence[Row]) -> list[Row]:
    """Add ``ours`` to report.json and report.md; return all rows of their network and dataset."""
    everything = gathered(rows_in(folder), ours)
    write_report(folder, EXPERIMENT, command, everything)
    sections = [_section(list(rows)) for _, rows in groupby(everything, group)]
    lines = ["# Tickets", "", *(line for section in sections for line in section)]
    (folder / "report.md").write_text("\n".join(lines).rstrip() + "\n")
    return [row for row in everything if group(row) == group(ours[0])]


def _section(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What was found with one network on one dataset."""
    first, dense, name = rows[0], rows[0]["dense"], group(rows[0])
    lines = [f"## {first['model']} on {first['dataset']}", "", *markdown(*headlines(rows)), ""]
    if dense:
        lines += [_dense_network(dense), ""]
    lines += [
        f"Errors are those of trained tickets at the end of training ({_length(first)}), "
        f"{_over(first['seeds'])}. Matching: the sparsest whose mean validation error is not "
        "above the dense network's. Best: that of the lowest validation error. Densities are of "
        "the kernels; biases (and what normalises) are not searched. Epochs are those of the "
        "search, without the training of the ticket.",
        "",
    ]
    if first["settings"]["epochs"] < _PUBLISHED_EPOCHS:
        what = _SHORT[first["preset"] == "smoke"]
        lines += [
            f"{what}: {_length(first)}, where the published searches have {_PUBLISHED_EPOCHS}.",
            "",
        ]
    for row in rows:
        lines += comparison(row)
    made = dict.fromkeys(run["made_by"] for row in rows for run in row["runs"])
    lines += [line for sentence in made for line in (sentence, "")]
    lines += [
        f"![Error against the weights left]({name}_tickets.png)",
        "",
        f"![Epochs spent against the weights left]({name}_cost.png)",
        "",
    ]
    if overlaps(rows):
        lines += [f"![Overlap of the masks of different seeds]({name}_overlap.png)", ""]
    lines += [
        f"### All tickets of {first['model']} on {first['dataset']}",
        "",
        *markdown(*_everything(rows)),
        "",
    ]
    return lines


def headlines(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """The table of what counts."""
    header = [
        "row", "epochs a round", "seeds",
        "matching: weights left", "test error", "epochs of search",
        "best: weights left", "test error", "epochs of search",
    ]  # fmt: skip
    cells = []
    for row in rows:
        line = [f"[{row['name']}]", str(row["settings"]["epochs"]), str(len(row["seeds"]))]
        for point in (row["matching"], row["best"]):
            line += _three(point)
        cells.append(line)
    return header, cells


def _dense_network(point: Point) -> str:
    """What the tickets are measured against."""
    return (
        f"The dense network: {error(point['test_error'])} test error, "
        f"{point['validation_error']['mean']:.2f} % validation error."
    )


def _everything(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    header = [
        "method", "hyperparameters", "round", "epochs of search", "weights left, mean",
        "test error", "validation", "overlap of the seeds' masks",
    ]  # fmt: skip
    cells = [
        [
            row["method"],
            ", ".join(f"{name} {value:g}" for name, value in point["hyperparameters"].items()),
            str(point["round"]),
            str(point["search_epochs"]),
            _left(point),
            error(point["test_error"]),
            f"{point['validation_error']['mean']:.2f} %",
            "" if point["overlap"] is None else f"{point['overlap']:.0%}",
        ]
        for row in rows
        for point in row["points"]
    ]
    return header, cells


def _three(point: Point | None) -> list[str]:
    if point is None:
        return ["(none)", "", ""]
    return [_left(point), error(point["test_error"]), str(point["search_epochs"])]


def _left(point: Point) -> str:
    nonzeros = sum(point["nonzeros"]) / len(point["nonzeros"])
    return f"{nonzeros:,.0f} ({density(point):.2%})"


def _over(seeds: Sequence[int]) -> str:
    """What an error is over them."""
    if len(seeds) == 1:
        return f"of seed {seeds[0]} alone"
    return f"mean and sample standard deviation over seeds {', '.join(map(str, seeds))}"


def _length(row: Mapping[str, Any]) -> str:
    """Of the searches and of the training of what they find."""
    return f"{row['settings']['epochs']} epochs a round, as many for a ticket"
