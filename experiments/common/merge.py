"""Merging of the rows of a new run into an existing report."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from experiments.common.report import Row, made_by, row_settings, summary


class Planned(NamedTuple):
    """A run that is to be made: its row, settings and seed."""

    row: str
    settings: Mapping[str, Any]
    seed: int


def rows_with_sources(content: Mapping[str, Any]) -> list[Row]:
    """Return the rows of a report (see `read_report`), each with a field that says what made it."""
    return [{"made_by": [made_by(content)], **row} for row in content["rows"]]


def merge(
    there: Sequence[Row], ours: Sequence[Row], per_seed: Collection[str], source: str
) -> list[Row]:
    """Add the rows of a run to those of a report.

    Rows of other names stay. A row that both have gets the seeds of both; a seed that was made
    again is replaced, and so is a row, whatever its settings, all of whose seeds were. A field that
    some seeds of a row lack is left out, since a mean over fewer seeds than the others beside it
    would mislead.

    Args:
      there: the rows of `rows_with_sources`.
      ours: the rows of a run.
      per_seed: the names of fields that are lists with a value for each seed. Fields made by
        `experiments.common.report.summary` have one, too, and are known by their form.
      source: the sentence that says what made ``ours``.

    Raises:
      ValueError: a row was made with other settings, and has seeds that were not made again.
    """
    found = {row["name"]: row for row in there}
    for row in _as_read(ours):
        new = {"made_by": [source], **row}  # a row may come from elsewhere
        old = found.get(row["name"])
        found[row["name"]] = new if old is None else _both(old, new, per_seed)
    return list(found.values())


def check_planned(there: Sequence[Row], planned: Iterable[Planned]) -> None:
    """Refuse runs whose rows `merge` would refuse when all of them have ended.

    Args:
      there: the rows of a report.
      planned: all runs of the rows that they belong to. Runs whose rows have no settings, such as
        those that choose some, are never refused and must not be among them.

    Raises:
      ValueError: see `merge`.
    """
    rows: dict[str, Row] = {}
    for run in planned:
        settings = row_settings(run.settings)
        row = rows.setdefault(run.row, {"name": run.row, "seeds": [], "settings": settings})
        row["seeds"].append(run.seed)
    for old in there:
        if old["name"] in rows:
            _is_replaced(old, _as_read(rows[old["name"]]))


def _is_replaced(old: Row, new: Row) -> bool:
    """Return whether all seeds of a row were made again; if not, the settings must be the same."""
    if {*old["seeds"], *_diverged(old)} <= {*new["seeds"], *_diverged(new)}:
        return True
    if old.get("settings") != new.get("settings"):
        raise ValueError(
            f"--add: {new['name']} was made with other settings in the report of --results: "
            f"{_differences(old.get('settings', {}), new.get('settings', {}))}"
        )
    return False


def _both(old: Row, new: Row, per_seed: Collection[str]) -> Row:
    """Return a row with the seeds of an old and a new one."""
    if _is_replaced(old, new):
        return new
    again = {*new["seeds"], *_diverged(new)}
    seeds = sorted({*old["seeds"], *again} - {*_diverged(new)})
    diverged = sorted({*_diverged(old), *_diverged(new)} - {*new["seeds"]})
    row = {**old, **new, "seeds": seeds, "made_by": _once([*old["made_by"], *new["made_by"]])}
    row.pop("diverged_seeds", None)
    if diverged:
        row["diverged_seeds"] = diverged
    for field in [*row]:
        if field in per_seed or any(_is_summary(side.get(field)) for side in (old, new)):
            values = _by_seed(old, field) | _by_seed(new, field)
            del row[field]
            if seeds and all(seed in values for seed in seeds):
                every = [values[seed] for seed in seeds]
                row[field] = every if field in per_seed else summary(every)
    return row


def _as_read(value: Any) -> Any:
    """Return a value as it is when it was written to a report and read."""
    return json.loads(json.dumps(value))


def _diverged(row: Row) -> list[int]:
    """Return the seeds that ended without a result."""
    return list(row.get("diverged_seeds", ()))


def _is_summary(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"mean", "std", "values"}


def _by_seed(row: Row, field: str) -> dict[int, Any]:
    """Return the values of a field by seed; nothing if the row does not have the field."""
    if field not in row:
        return {}
    values = row[field]["values"] if _is_summary(row[field]) else row[field]
    return dict(zip(row["seeds"], values, strict=True))


def _differences(old: Row, new: Row) -> str:
    names = [name for name in _once([*old, *new]) if old.get(name) != new.get(name)]
    return ", ".join(f"{name} {old.get(name)} there, {new.get(name)} here" for name in names)


def _once(sentences: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(sentences))
