"""Merging of the rows of a new run into an existing report."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from experiments.common.report import Row, made_by, summary


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
    for row in json.loads(json.dumps(ours)):  # as it will be read
        new = {"made_by": [source], **row}  # a row may come from elsewhere
        old = found.get(row["name"])
        found[row["name"]] = new if old is None else _both(old, new, per_seed)
    return list(found.values())


def _both(old: Row, new: Row, per_seed: Collection[str]) -> Row:
    """Return a row with the seeds of an old and a new one."""
    again = {*new["seeds"], *_diverged(new)}
    if {*old["seeds"], *_diverged(old)} <= again:
        return new
    if old.get("settings") != new.get("settings"):
        raise ValueError(
            f"--add: {new['name']} was made with other settings in the report of --results: "
            f"{_differences(old.get('settings', {}), new.get('settings', {}))}"
        )
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
