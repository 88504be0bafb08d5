"""What was found, by method: report.json, report.md and the same table on the screen."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from experiments.common.results import machine, made_by, versions, write_report
from experiments.common.tables import markdown, screen
from experiments.tickets.config import PRESETS, Config
from experiments.tickets.points import Point, against, best, density, sparsest_matching

EXPERIMENT = "tickets"
_SHORT = ("Shorter than published", "A trial of the whole way, no result to compare")
_PUBLISHED_EPOCHS = PRESETS["paper"].epochs
_SETTINGS = (
    "epochs", "rounds", "rewind_epochs", "learning_rate", "weight_decay", "batch_size", "width",
    "dtype",
)  # fmt: skip


def table_rows(config: Config, found: Mapping[Any, Sequence[Point]]) -> list[dict[str, Any]]:
    """The rows of report.json, one for each method: all its points, and which of them count.

    ``matching`` is the sparsest ticket whose validation error is not above the dense network's
    (that of iterative magnitude pruning before its first pruning), ``best`` that of the lowest
    validation error. The row's own numbers are those of the former, where there is one.
    """
    pruned = found.get("imp") or found.get("imp_continued") or ()
    dense = next((point for point in pruned if point["round"] == 0), None)
    rows = []
    for method, points in found.items():
        tickets = [point for point in points if point["round"]]
        matching, top = sparsest_matching(tickets, dense), best(tickets)
        chosen = matching or top
        settings = config.settings(method)
        row: dict[str, Any] = {
            "name": f"{config.model}_{config.trained_on()}_{method}",
            "model": config.model,
            "dataset": config.trained_on(),
            "method": method,
            "preset": config.preset,
            "seeds": list(config.seeds),
            "settings": {name: settings[name] for name in _SETTINGS},
            "chosen": "matching" if matching else "best",
            **{
                name: chosen[name]
                for name in ("test_error", "validation_error", "nonzeros", "density")
            },
            "matching": matching,
            "best": top,
            "dense": dense,
            "points": list(points),
        }
        if method == "cs" and found.get("imp"):
            row["against_imp"] = against(points, found["imp"])
        rows.append(row)
    return rows


def write(folder: Path, command: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Write report.json and report.md into ``folder``; return the table for the screen.

    Rows of other networks and datasets that are in the folder's report stay in it, as those that
    another machine has made; each row says what made it.
    """
    about = {"command": command, "versions": versions(), "machine": machine()}
    ours = [{**row, **about, "made_by": made_by(command)} for row in rows]
    path = folder / "report.json"
    there = json.loads(path.read_text())["rows"] if path.exists() else []
    kept = [row for row in there if group(row) != group(rows[0])]
    everything = sorted([*kept, *ours], key=group)
    write_report(folder, EXPERIMENT, command, everything)
    sections = [_section(list(rows)) for _, rows in groupby(everything, group)]
    lines = ["# Tickets", "", *(line for section in sections for line in section)]
    (folder / "report.md").write_text("\n".join(lines).rstrip() + "\n")
    return screen(*headlines(rows))


def group(row: Mapping[str, Any]) -> str:
    """The network and what it learns, as figures and sections are named."""
    return f"{row['model']}_{row['dataset']}"


def _section(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What was found with one network on one dataset."""
    first, dense, name = rows[0], rows[0]["dense"], group(rows[0])
    lines = [f"## {first['model']} on {first['dataset']}", "", *markdown(*headlines(rows)), ""]
    if dense:
        lines += [
            f"The dense network: {_error(dense['test_error'])} test error, "
            f"{dense['validation_error']['mean']:.2f} % validation error.",
            "",
        ]
    lines += [
        f"Errors are those of trained tickets at the end of training ({_length(first)}), mean and "
        f"sample standard deviation over seeds {', '.join(map(str, first['seeds']))}. Matching: "
        "the sparsest whose mean validation error is not above the dense network's. Best: that of "
        "the lowest validation error. Densities are of the kernels; biases (and what normalises) "
        "are not searched. Epochs are those of the search, without the training of the ticket.",
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
    lines += [
        first["made_by"],
        "",
        f"![Error against the weights left]({name}_tickets.png)",
        "",
        f"![Epochs spent against the weights left]({name}_cost.png)",
        "",
        f"![Overlap of the masks of different seeds]({name}_overlap.png)",
        "",
        f"### All tickets of {first['model']} on {first['dataset']}",
        "",
        *markdown(*_everything(rows)),
        "",
    ]
    return lines


def headlines(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """The table of what counts."""
    header = [
        "row", "matching: weights left", "test error", "epochs of search",
        "best: weights left", "test error", "epochs of search",
    ]  # fmt: skip
    cells = []
    for row in rows:
        line = [f"[{row['name']}]"]
        for point in (row["matching"], row["best"]):
            line += _three(point)
        cells.append(line)
    return header, cells


def comparison(row: Mapping[str, Any]) -> list[str]:
    """Continuous sparsification beside iterative magnitude pruning, beyond 95 % sparsity."""
    compared = row.get("against_imp")
    if not compared:
        return []
    header = [
        "weights left", "continuous sparsification", "epochs",
        "iterative magnitude pruning", "epochs",
    ]  # fmt: skip
    cells = [
        [
            f"{point['density']:.2%}",
            f"{point['test_error']:.2f} %",
            str(point["search_epochs"]),
            f"{point['rival_test_error']:.2f} %",
            f"{point['rival_search_epochs']:.0f}",
        ]
        for point in compared
    ]
    cheap = [
        point for point in compared if 5 * point["search_epochs"] <= point["rival_search_epochs"]
    ]
    return [
        "Test error at the same density beyond 95 % sparsity (of iterative magnitude pruning "
        "interpolated between its rounds): continuous sparsification is ahead at "
        f"{_ahead(compared)} tickets, and at {_ahead(cheap)} that cost at most a fifth of the "
        "other's epochs.",
        "",
        *markdown(header, cells),
        "",
    ]


def _ahead(compared: Sequence[Mapping[str, Any]]) -> str:
    ahead = sum(point["test_error"] <= point["rival_test_error"] for point in compared)
    return f"{ahead} of {len(compared)}"


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
            _error(point["test_error"]),
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
    return [_left(point), _error(point["test_error"]), str(point["search_epochs"])]


def _left(point: Point) -> str:
    nonzeros = sum(point["nonzeros"]) / len(point["nonzeros"])
    return f"{nonzeros:,.0f} ({density(point):.2%})"


def _error(error: Mapping[str, Any]) -> str:
    return f"{error['mean']:.2f} ± {error['std']:.2f} %"


def _length(row: Mapping[str, Any]) -> str:
    return f"{row['settings']['epochs']} epochs a round, as many for a ticket"
