"""What was found, by method: report.json, report.md and the same table on the screen.

``python -m experiments.tickets.report FOLDER`` writes both and the figures anew from the points in
the folder's report.json: nothing is trained, no point changes.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import tyro

from experiments.common import cli
from experiments.common.results import write_report
from experiments.common.tables import error, markdown
from experiments.tickets import options
from experiments.tickets.config import PRESETS
from experiments.tickets.figures import draw
from experiments.tickets.networks import CIFAR_MODELS
from experiments.tickets.points import Point, density
from experiments.tickets.rows import Row, completed, derived, gathered, group, overlaps
from experiments.tickets.standing import comparison
from sparsejax.training import write_json

EXPERIMENT = "tickets"
_SHORT = ("Shorter than published", "A trial of the whole way, no result to compare")
_PUBLISHED_EPOCHS = PRESETS["paper"].epochs


def rows_in(folder: Path) -> list[Row]:
    """Of the report that is there, if one is."""
    path = folder / "report.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    return [completed(row) for row in rows]


def write(folder: Path, command: str, ours: Sequence[Row]) -> list[Row]:
    """Add ``ours`` to report.json and report.md; return all rows of their network and dataset."""
    everything = gathered(rows_in(folder), ours)
    write_report(folder, EXPERIMENT, command, everything)
    _write_markdown(folder, everything)
    return [row for row in everything if group(row) == group(ours[0])]


def write_again(folder: Path) -> list[Path]:
    """Write report.json, report.md and the figures anew from the points that are there.

    What made them, and where, stays as it is written there.

    Returns:
      The PNGs.

    Raises:
      FileNotFoundError: there is no report.json in ``folder``.
    """
    path = folder / "report.json"
    everything = derived([completed(row) for row in json.loads(path.read_text())["rows"]])
    write_json(path, {**json.loads(path.read_text()), "rows": everything})
    _write_markdown(folder, everything)
    return [png for _, rows in groupby(everything, group) for png in draw(folder, list(rows))]


def _write_markdown(folder: Path, rows: Sequence[Row]) -> None:
    sections = [_section(list(its)) for _, its in groupby(rows, group)]
    lines = ["# Tickets", "", *(line for section in sections for line in section)]
    (folder / "report.md").write_text("\n".join(lines).rstrip() + "\n")


def _section(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What was found with one network on one dataset."""
    first, dense, name = rows[0], rows[0]["dense"], group(rows[0])
    lines = [f"## {first['model']} on {first['dataset']}", "", *markdown(*headlines(rows)), ""]
    if dense:
        lines += [_dense_network(dense), ""]
    lines += [
        f"Errors are those of trained tickets at the end of training ({_length(first)}), "
        f"{_over(first['seeds'])}. Matching: the sparsest whose mean validation error is not "
        "above the dense network's. Best: that of the lowest validation error (of several, "
        "the cheapest). Densities are of "
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
        if row["method"] == "cs":
            told = options.sentence(row["settings"], statistics=row["model"] in CIFAR_MODELS)
            lines += [f"Continuous sparsification, {_options(row)}: {told}.", ""]
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
        "row", "options", "epochs a round", "seeds",
        "matching: weights left", "test error", "epochs of search",
        "best: weights left", "test error", "epochs of search",
    ]  # fmt: skip
    cells = []
    for row in rows:
        name, settings = f"[{row['name']}]", row["settings"]
        line = [name, _options(row), str(settings["epochs"]), str(len(row["seeds"]))]
        for point in (row["matching"], row["best"]):
            line += _three(point)
        cells.append(line)
    return header, cells


def _options(row: Mapping[str, Any]) -> str:
    """Those of continuous sparsification; the other methods have none."""
    return options.title(row["settings"]) if row["method"] == "cs" else ""


def _dense_network(point: Point) -> str:
    """What the tickets are measured against."""
    return (
        f"The dense network: {error(point['test_error'])} test error, "
        f"{point['validation_error']['mean']:.2f} % validation error."
    )


def _everything(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    several = len({_options(row) for row in rows if row["method"] == "cs"}) > 1
    header = [
        "method", "hyperparameters", "round", "epochs of search", "weights left, mean",
        "test error", "validation", "overlap of the seeds' masks",
    ]  # fmt: skip
    cells = [
        [
            f"{row['method']}, {_options(row)}" if several and _options(row) else row["method"],
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


@dataclasses.dataclass(frozen=True)
class _Again:
    """Write a report and its figures anew from the points that are in its folder."""

    folder: tyro.conf.Positional[Path]
    """Of report.json."""


def _main(config: _Again, command: str) -> None:
    del command
    pictures = write_again(config.folder)
    for path in (config.folder / "report.json", config.folder / "report.md", *pictures):
        print(f"wrote {path}")


if __name__ == "__main__":
    cli.run(_Again, "experiments.tickets.report", _main)
