"""The rows of the report: points of several runs gathered, and which of them count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from experiments.common.results import made_by, origin
from experiments.tickets import options
from experiments.tickets.config import METHODS, Config
from experiments.tickets.points import Point, against, best, sparsest_matching

Row = dict[str, Any]
_SETTINGS = (
    "epochs", "rewind_epochs", "learning_rate", "weight_decay", "batch_size", "width", "dtype",
)  # fmt: skip


def group(row: Mapping[str, Any]) -> str:
    """That of the run it is from, see `Config.group`."""
    return f"{row['model']}_{row['dataset']}"


def overlaps(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether masks of several seeds have been compared."""
    return any(point["overlap"] is not None for row in rows for point in row["points"])


def completed(row: Row) -> Row:
    """A row from a file, which may be older than the options of continuous sparsification."""
    if row["method"] != "cs":
        return row
    return {**row, "settings": options.complete(row["settings"])}


def rows_of(config: Config, found: Mapping[Any, Sequence[Point]], command: str) -> list[Row]:
    """A row for each method of a run: its points, what made them, and nothing derived yet."""
    run = {"command": command, **origin(), "made_by": made_by(command)}
    common = {name: config.settings(METHODS[0])[name] for name in _SETTINGS}
    return [
        {
            "name": f"{config.group()}_{method}",
            "model": config.model,
            "dataset": config.trained_on(),
            "method": method,
            "preset": config.preset,
            "seeds": list(config.seeds),
            "settings": {**common, **(config.chosen() if method == "cs" else {})},
            "runs": [run],
            "points": [{**point, "run": 0} for point in points],
        }
        for method, points in found.items()
        if points
    ]


def gathered(there: Sequence[Row], ours: Sequence[Row]) -> list[Row]:
    """The rows of a report that ``ours``, all of one network and dataset, are added to.

    Rows of other networks stay. Of this one, rows with the same settings and seeds stay, too, and a
    method's points add up: so a table can be made in pieces, a start or a round at a time and on
    several machines. A point that is made again is replaced. Rows of other settings are not
    comparable and go (see `check_comparable`). Continuous sparsification with other options (see
    `options`) is comparable, but not the same: its points are in a row of their own. What follows
    from the points is found anew for all.
    """
    name = group(ours[0])
    same = {_identity(row): row for row in there if group(row) == name and _alike(row, ours[0])}
    added = same | {_identity(row): _joined(same.get(_identity(row)), row) for row in ours}
    everything = [row for row in there if group(row) != name]
    everything += [added[key] for key in sorted(added)]
    return derived(everything)


def derived(rows: Sequence[Row]) -> list[Row]:
    """All rows of a report with what follows from their points, sorted by network and dataset."""
    each = groupby(sorted(rows, key=group), group)
    return [row for _, its in each for row in _derived(list(its))]


def check_comparable(there: Sequence[Row], config: Config) -> None:
    """Raise ValueError where a run's rows would put some out of the report that took longer."""
    epochs = config.settings(METHODS[0])["epochs"]
    for row in there:
        its = row["settings"]["epochs"]
        if group(row) == config.group() and its > epochs:
            raise ValueError(
                f"--results holds {row['name']} of {its} epochs a round, which rows of {epochs} "
                "may not replace; give another folder"
            )


def _alike(one: Row, other: Row) -> bool:
    """Whether two rows of a network can be compared."""
    same = all(one["settings"][name] == other["settings"][name] for name in _SETTINGS)
    return same and one["seeds"] == other["seeds"]


def _identity(row: Row) -> tuple[Any, ...]:
    """Of rows that can be compared, those whose points add up have the same; it sorts them."""
    own = sorted(set(row["settings"]) - set(_SETTINGS))
    return METHODS.index(row["method"]), *(row["settings"][name] for name in own)


def _joined(there: Row | None, ours: Row) -> Row:
    """``ours`` with the points of ``there`` that it has not itself."""
    if there is None:
        return ours
    made = {_place(point) for point in ours["points"]}
    kept = [point for point in there["points"] if _place(point) not in made]
    runs: list[Any] = []
    points = []
    for row, its_points in ((there, kept), (ours, ours["points"])):
        for point in its_points:
            run = row["runs"][point["run"]]
            if run not in runs:
                runs.append(run)
            points.append({**point, "run": runs.index(run)})
    return {**ours, "runs": runs, "points": sorted(points, key=_place)}


def _place(point: Point) -> tuple[Any, ...]:
    return point["round"], *point["hyperparameters"].items()


def _derived(rows: Sequence[Row]) -> list[Row]:
    """With what follows from the points of all methods.

    ``matching`` is the sparsest ticket whose validation error is not above the dense network's
    (that of iterative magnitude pruning before its first pruning), ``best`` that of the lowest
    validation error. The row's own numbers are those of the former, where there is one.
    """
    points = {row["method"]: row["points"] for row in rows}
    pruned = [*points.get("imp", ()), *points.get("imp_continued", ())]
    dense = next((point for point in pruned if point["round"] == 0), None)
    complete = []
    for row in rows:
        tickets = [point for point in row["points"] if point["round"]]
        matching, top = sparsest_matching(tickets, dense), best(tickets)
        chosen = matching or top or row["points"][0]
        numbers = ("test_error", "validation_error", "nonzeros", "density")
        new: Row = {
            **row,
            "chosen": "matching" if matching else "best" if top else "dense",
            **{name: chosen[name] for name in numbers},
            "matching": matching,
            "best": top,
            "dense": dense,
        }
        if row["method"] == "cs" and any(point["round"] for point in points.get("imp", ())):
            new["against_imp"] = against(tickets, points["imp"])
        complete.append(new)
    return complete
