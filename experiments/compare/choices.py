"""The errors by method and budget, and which method follows from them by the stated rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.common.report import Columns, Row, Table, difference, error, seeds_of
from experiments.compare.costs import AFFORDABLE, Costs
from experiments.compare.methods import METHODS, names


def compared(rows: Sequence[Row], network: str) -> dict[str, dict[str, Row]]:
    """The rows of a network by budget and method, the most weights first.

    Methods of which every seed diverged have no error and are left out.
    """
    found: dict[str, dict[str, Row]] = {}
    for row in in_order(rows):
        if row["network"] == network and "kept_percent" in row and row["seeds"]:
            found.setdefault(row["kept_percent"], {})[row["method"]] = row
    return {budget: found[budget] for budget in sorted(found, key=float, reverse=True)}


def in_order(rows: Sequence[Row]) -> list[Row]:
    """The rows as the table has them: rows that were added to a report come last in it."""
    return sorted(rows, key=lambda row: names().index(row["method"]))


def complete(by_budget: Mapping[str, Mapping[str, Row]]) -> bool:
    """Whether there is a dense network, and a pruned one to set beside it."""
    return "100" in by_budget and len(by_budget) > 1


def all_rows(by_budget: Mapping[str, Mapping[str, Row]]) -> list[Row]:
    """The rows of every budget and method."""
    return [row for found in by_budget.values() for row in found.values()]


def mean_error(row: Row) -> float:
    """The mean test error over seeds, in per cent."""
    mean: float = row["test_error"]["mean"]
    return mean


def one_seed(by_budget: Mapping[str, Mapping[str, Row]]) -> str:
    """A warning where no difference can be told from chance; empty where there are more seeds."""
    if len(seeds_of(all_rows(by_budget))) > 1:
        return ""
    return (
        "This is one seed of each method: there are no standard errors yet, and small differences "
        "mean nothing."
    )


def fewer_seeds(by_budget: Mapping[str, Mapping[str, Row]]) -> str:
    """Return the note on numbers in parentheses; empty where all seeds of all methods have run."""
    rows = all_rows(by_budget)
    notes = []
    if any(len(_ran(row)) < len(seeds_of(rows)) for row in rows):
        notes.append("(1), (2): only so many seeds have run.")
    if any("diverged_seeds" in row for row in rows):
        notes.append("(n diverged): so many further seeds ended in NaN.")
    return " ".join(notes)


def _ran(row: Row) -> list[int]:
    return [*row["seeds"], *row.get("diverged_seeds", ())]


def _error(row: Row, seeds: Sequence[int]) -> str:
    """The test error of a row, with its number of seeds if some are missing or diverged."""
    notes = []
    if len(_ran(row)) < len(seeds):
        notes.append(str(len(row["seeds"])))
    if diverged := row.get("diverged_seeds"):
        notes.append(f"{len(diverged)} diverged")
    return error(row["test_error"]) + (f" ({', '.join(notes)})" if notes else "")


def _best(candidates: Sequence[Row], seeds: Sequence[int]) -> str:
    """The method of the lowest mean test error, and those within the standard error of it."""
    if not candidates:
        return "(none)"
    best = min(candidates, key=mean_error)
    gaps = [(row, *difference(row, best)) for row in candidates if row is not best]
    equal = [row for row, gap, spread in gaps if gap <= spread]
    also = ", ".join(METHODS[row["method"]].title for row in sorted(equal, key=mean_error))
    found = f"{METHODS[best['method']].title}: {_error(best, seeds)}"
    found += f"; as good: {also}" if also else ""
    whole = [row for row in candidates if len(row["seeds"]) == len(seeds)]
    if "diverged_seeds" in best and whole:
        safe = min(whole, key=mean_error)
        found += f"; never diverged: {METHODS[safe['method']].title}, {_error(safe, seeds)}"
    return found


def choices(by_budget: Mapping[str, Mapping[str, Row]], costs: Costs) -> list[dict[str, str]]:
    """Return the lines of the table of what to use when, one for each budget."""
    lines, seeds = [], seeds_of(all_rows(by_budget))
    for budget, found in by_budget.items():
        if budget != "100":
            cheap = [row for m, row in found.items() if m in costs and costs[m].affordable]
            sparse = [row for name, row in found.items() if METHODS[name].always_sparse]
            lines.append(
                {
                    "budget": budget,
                    "error": _best(list(found.values()), seeds),
                    "cheap": _best(cheap, seeds) if costs else "(not measured)",
                    "sparse": _best(sparse, seeds),
                }
            )
    return lines


def errors_table(by_budget: Mapping[str, Mapping[str, Row]], costs: Costs) -> Table:
    """A line for each method, a column for each budget; the lowest mean of a budget is bold."""
    (dense,), seeds = by_budget["100"].values(), seeds_of(all_rows(by_budget))
    budgets = [budget for budget in by_budget if budget != "100"]
    methods = [name for name in names() if any(name in by_budget[b] for b in by_budget)]

    def cell(budget: str) -> Callable[[str], str]:
        def text(method: str) -> str:
            if method == "dense":
                return error(dense["test_error"])
            row = by_budget[budget].get(method)
            if row is None:
                return ""
            found = _error(row, seeds)
            lowest = min(map(mean_error, by_budget[budget].values()))
            return f"**{found}**" if mean_error(row) == lowest else found

        return text

    columns: list[Any] = [("method", lambda method: f"{METHODS[method].title} [{method}]")]
    columns += [(f"{budget} % left", cell(budget)) for budget in budgets]
    if costs:
        columns += [("time of a step, dense = 1", lambda method: str(costs.get(method, "")))]
    return Table(columns, methods)


CHOICES: Columns = (
    ("weights left", lambda line: f"{line['budget']} %"),
    ("lowest error", lambda line: line["error"]),
    (f"lowest error, cost at most {AFFORDABLE} times dense", lambda line: line["cheap"]),
    ("lowest error, sparse from the start", lambda line: line["sparse"]),
)
