"""One report of all networks and datasets, to which the points of several runs add up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from statistics import fmean
from typing import Any

from experiments.common.networks import CIFAR_MODELS
from experiments.common.report import (
    Columns,
    FigureFile,
    Part,
    Parts,
    Row,
    Table,
    error,
    made_by,
    origin,
    read_report,
    titled,
)
from experiments.tickets.config import (
    METHODS,
    PRESETS,
    Config,
    option_notes,
    option_title,
    row_name,
)
from experiments.tickets.figures import figures
from experiments.tickets.points import (
    Point,
    against,
    best,
    comparison,
    density,
    lower,
    points,
    sparsest_matching,
    standard_error,
    validation_differences,
)

__all__ = ["figures", "parts", "rows"]

_SHARED = (
    "epochs", "rewind_epochs", "learning_rate", "weight_decay", "batch_size", "width", "dtype",
)  # fmt: skip
_HOW = (
    "Test error at the same density beyond 95 % sparsity (of iterative magnitude pruning "
    "interpolated between its rounds)"
)


def group(row: Mapping[str, Any]) -> str:
    """The network and dataset of a row, see `Config.group`."""
    return f"{row['model']}_{row['dataset']}"


def check_comparable(there: Sequence[Row], config: Config) -> None:
    """Raise ValueError if the rows of a run would replace rows of longer runs in the report."""
    epochs = config.settings(METHODS[0])["epochs"]
    for row in there:
        longer = row["settings"]["epochs"]
        if group(row) == config.group and longer > epochs:
            raise ValueError(
                f"--results holds {row['name']} of {longer} epochs a round, which rows of {epochs} "
                "may not replace; give another folder"
            )


def rows(config: Config, ended: Mapping[str, Sequence[Any]], command: str) -> list[Row]:
    """The rows of the report that is there, with those of this run added."""
    found = {name: points(run.result()["rows"], run.masks) for name, (run,) in ended.items()}
    return gather(read_report(config.report_folder)["rows"], rows_of(config, found, command))


def rows_of(config: Config, found: Mapping[Any, Sequence[Point]], command: str) -> list[Row]:
    """A row for each method of a run: its points, and what made them."""
    run = {"command": command, **origin()}
    run["made_by"] = made_by(run)
    shared = {name: config.settings(METHODS[0])[name] for name in _SHARED}
    settings = {method: shared | (config.options() if method == "cs" else {}) for method in METHODS}
    return [
        {
            "name": row_name(config.group, method, settings[method]),
            "model": config.model,
            "dataset": config.task,
            "method": method,
            "preset": config.preset,
            "seeds": list(config.seeds),
            "settings": settings[method],
            "runs": [run],
            "points": [{**point, "run": 0} for point in points],
        }
        for method, points in found.items()
        if points
    ]


def gather(there: Sequence[Row], ours: Sequence[Row]) -> list[Row]:
    """The rows of a report with ``ours``, all of one network and dataset, added.

    Rows of other networks stay. Of this one, rows with the same settings and seeds stay, too, and
    the points of a method add up: so a table can be made in pieces, on several machines. A point
    that is made again is replaced. Rows of other settings are not comparable and are dropped (see
    `check_comparable`). Continuous sparsification with other options is comparable, but a row of
    its own. What follows from the points is computed anew for all.
    """
    first = ours[0]

    def comparable(row: Row) -> bool:
        same = all(row["settings"][name] == first["settings"][name] for name in _SHARED)
        return group(row) == group(first) and same and row["seeds"] == first["seeds"]

    added = {_identity(row): row for row in there if comparable(row)}
    for row in ours:
        added[_identity(row)] = _join(added.get(_identity(row)), row)
    everything = [row for row in there if group(row) != group(first)]
    everything += [added[key] for key in sorted(added)]
    by_group = groupby(sorted(everything, key=group), group)
    return [row for _, members in by_group for row in _derive(list(members))]


def _identity(row: Row) -> tuple[Any, ...]:
    """The same for rows whose points add up; it sorts them."""
    own = sorted(set(row["settings"]) - set(_SHARED))
    return METHODS.index(row["method"]), *(row["settings"][name] for name in own)


def _join(there: Row | None, ours: Row) -> Row:
    """``ours`` with the points of ``there`` that it has not itself."""
    if there is None:
        return ours
    made = {_key(point) for point in ours["points"]}
    kept = [point for point in there["points"] if _key(point) not in made]
    runs: list[Any] = []
    joined = []
    for row, its_points in ((there, kept), (ours, ours["points"])):
        for point in its_points:
            run = row["runs"][point["run"]]
            if run not in runs:
                runs.append(run)
            joined.append({**point, "run": runs.index(run)})
    return {**ours, "runs": runs, "points": sorted(joined, key=_key)}


def _key(point: Point) -> tuple[Any, ...]:
    return point["round"], *point["hyperparameters"].items()


def _derive(rows: Sequence[Row]) -> list[Row]:
    """Add what follows from the points of all methods of a network.

    ``matching`` is the sparsest ticket whose validation error is not above the dense network's
    (that of iterative magnitude pruning before its first pruning), ``best`` that of the lowest
    validation error. The row's own numbers are those of the former, where there is one.
    """
    of_method = {row["method"]: row["points"] for row in rows}
    pruned = [*of_method.get("imp", ()), *of_method.get("imp_continued", ())]
    dense = next((point for point in pruned if point["round"] == 0), None)
    complete = []
    for row in rows:
        tickets = [point for point in row["points"] if point["round"]]
        matching, top = sparsest_matching(tickets, dense), best(tickets)
        chosen = matching or top or row["points"][0]
        new: Row = {
            **row,
            "chosen": "matching" if matching else "best" if top else "dense",
            **{n: chosen[n] for n in ("test_error", "validation_error", "nonzeros", "density")},
            "matching": matching,
            "best": top,
            "dense": dense,
        }
        if row["method"] == "cs" and any(point["round"] for point in of_method.get("imp", ())):
            new["against_imp"] = against(tickets, of_method["imp"])
        complete.append(new)
    return complete


def _options(row: Row) -> str:
    return option_title(row["settings"]) if row["method"] == "cs" else ""


def _left(point: Point) -> str:
    nonzeros = sum(point["nonzeros"]) / len(point["nonzeros"])
    return f"{nonzeros:,.0f} ({density(point):.2%})"


def _of(name: str) -> Columns:
    """The columns of the point ``name`` of a row."""
    return (
        (f"{name}: weights left", lambda row: _left(row[name]) if row[name] else "(none)"),
        ("test error", lambda row: error(row[name]["test_error"]) if row[name] else ""),
        ("search epochs", lambda row: str(row[name]["search_epochs"]) if row[name] else ""),
    )


HEADLINES: Columns = (
    ("row", lambda row: f"[{row['name']}]"),
    ("options", _options),
    ("epochs per round", lambda row: str(row["settings"]["epochs"])),
    ("seeds", lambda row: str(len(row["seeds"]))),
    *_of("matching"),
    *_of("best"),
)
_POINTS: Columns = (
    ("method", lambda line: line[0]),
    ("hyperparameters", lambda line: ", ".join(f"{n} {x:g}" for n, x in line[1].items())),
    ("round", lambda line: str(line[2]["round"])),
    ("search epochs", lambda line: str(line[2]["search_epochs"])),
    ("weights left, mean", lambda line: _left(line[2])),
    ("test error", lambda line: error(line[2]["test_error"])),
    ("validation error", lambda line: f"{line[2]['validation_error']['mean']:.2f} %"),
    (
        "Jaccard index of the seeds' masks",
        lambda line: "" if line[2]["mask_jaccard"] is None else f"{line[2]['mask_jaccard']:.0%}",
    ),
)
_COMPARED: Columns = (
    ("weights left", lambda point: f"{point['density']:.2%}"),
    ("continuous sparsification", lambda point: f"{point['test_error']:.2f} %"),
    ("search epochs", lambda point: str(point["search_epochs"])),
    ("iterative magnitude pruning", lambda point: f"{point['baseline_test_error']:.2f} %"),
    ("search epochs", lambda point: f"{point['baseline_search_epochs']:.0f}"),
    (
        "difference",
        lambda point: (
            f"{point['difference']['mean']:+.2f}"
            + (f" ± {standard_error(point):.2f}" if len(point["difference"]["values"]) > 1 else "")
        ),
    ),
    ("on the Pareto front", lambda point: "yes" if point["on_pareto_front"] else ""),
)


def parts(rows: Sequence[Row]) -> Parts:
    """The report: a section for each network and dataset."""
    sections = [_section(list(its)) for _, its in groupby(rows, group)]
    return ["# Tickets", *(part for section in sections for part in section)]


def _section(rows: Sequence[Row]) -> list[Part]:
    first, dense, name = rows[0], rows[0]["dense"], group(rows[0])
    epochs, longest = first["settings"]["epochs"], PRESETS["paper"].epochs
    seeds = ", ".join(map(str, first["seeds"]))
    several = len({_options(row) for row in rows if row["method"] == "cs"}) > 1
    found: list[Part] = [
        f"## {titled(first['model'], first['dataset'])}",
        Table(HEADLINES, rows),
    ]
    if dense:
        found += [
            f"The dense network: {error(dense['test_error'])} test error, "
            f"{dense['validation_error']['mean']:.2f} % validation error."
        ]
    over = "mean and sample standard deviation over seeds" if len(first["seeds"]) > 1 else "of seed"
    found += [
        f"Errors are those of trained tickets at the end of training ({epochs} epochs a round, as "
        f"many for a ticket), {over} {seeds}. Matching: the sparsest ticket whose mean validation "
        "error is not above the dense network's. Best: that of the lowest validation error (of "
        "several, the cheapest). Densities are of the kernels; biases and normalisation are not "
        "pruned. Search epochs do not include the training of the ticket."
    ]
    if epochs < longest:
        what = "A trial, not a result" if first["preset"] == "smoke" else "Shorter than published"
        found += [f"{what}: {epochs} epochs a round, where the published searches have {longest}."]
    for row in rows:
        if row["method"] == "cs":
            notes = option_notes(row["settings"], statistics=row["model"] in CIFAR_MODELS)
            found += [f"Continuous sparsification, {_options(row)}: {notes}."]
        found += compared(row)
    found += _options_compared([row for row in rows if row["method"] == "cs"])
    found += dict.fromkeys(run["made_by"] for row in rows for run in row["runs"])
    found += [
        FigureFile("Error against the weights left", f"{name}_tickets.png"),
        FigureFile("Epochs spent against the weights left", f"{name}_cost.png"),
    ]
    if any(point["mask_jaccard"] is not None for row in rows for point in row["points"]):
        caption = "Jaccard index of the masks of different seeds"
        found += [FigureFile(caption, f"{name}_jaccard.png")]
    lines = [
        (
            f"{row['method']}, {_options(row)}" if several and _options(row) else row["method"],
            point["hyperparameters"],
            point,
        )
        for row in rows
        for point in row["points"]
    ]
    title = f"### All tickets of {titled(first['model'], first['dataset'])}"
    return [*found, title, Table(_POINTS, lines, on_screen=False)]


def _options_compared(rows: Sequence[Row]) -> list[str]:
    """Return a sentence for every row but the first, against it, by the validation images alone."""
    sentences = []
    for row in rows[1:]:
        if gaps := validation_differences(row["points"], rows[0]["points"]):
            wins = sum(lower(gap, 0.0) for gap in gaps)
            sentences.append(
                f"Validation error at the same density (of searches {_options(rows[0])} "
                f"interpolated between their tickets): {_options(row)} it is lower at {wins} of "
                f"{len(gaps)} tickets; the mean difference is {fmean(gaps):+.2f} points."
            )
    return sentences


def compared(row: Row) -> list[Part]:
    """The counts of a row against its baseline in a sentence, and every ticket in a table."""
    counts = comparison(row)
    if counts is None:
        return []
    sentence = (
        f"{_HOW}: continuous sparsification has the lower error at {counts.all} tickets, at "
        f"{counts.on_pareto_front} on the Pareto front of validation error and density, and at "
        f"{counts.cheap} that cost at most a fifth of the other's epochs"
    )
    if counts.significant:
        sentence += (
            "; by more than two standard errors of the seeds' differences it is lower at "
            f"{counts.significant[0]} and higher at {counts.significant[1]}"
        )
    return [f"{sentence}.", Table(_COMPARED, row["against_imp"], on_screen=False)]


def overview(rows: Sequence[Row]) -> tuple[str, Table]:
    """The counts of all networks in one table."""
    lines = [(row, counts) for row in rows if (counts := comparison(row))]
    networks = [group(row) for row, _ in lines]

    def title(line: Any) -> str:
        name = titled(line[0]["model"], line[0]["dataset"])
        return f"{name}, {_options(line[0])}" if networks.count(group(line[0])) > 1 else name

    def significant(place: int) -> Callable[[Any], str]:
        return lambda line: (
            "(one seed)" if line[1].significant is None else str(line[1].significant[place])
        )

    columns: Columns = (
        ("network", title),
        ("dense: test error", lambda line: error(line[0]["dense"]["test_error"])),
        ("lower", lambda line: str(line[1].all)),
        ("lower on the Pareto front", lambda line: str(line[1].on_pareto_front)),
        ("lower at a fifth of the epochs", lambda line: str(line[1].cheap)),
        ("significantly lower", significant(0)),
        ("significantly higher", significant(1)),
    )
    how = (
        f"{_HOW}: at how many of its tickets continuous sparsification has the lower one, of those "
        "on the Pareto front of validation error and density, of those found in a fifth of the "
        "epochs, and significantly so: by more than two standard errors of the seeds' differences."
    )
    return how, Table(columns, lines)
