"""The tables: errors by method and budget, what to use when, and how settings were chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.common.report import (
    Columns,
    FigureFile,
    MadeBy,
    Part,
    Parts,
    Row,
    Table,
    aggregate,
    describe,
    difference,
    error,
    seeds_of,
    titled,
)
from experiments.common.runner import Picture
from experiments.compare import figures as pictures
from experiments.compare.config import TASKS, TUNING_SEED, Config
from experiments.compare.methods import METHODS, names

FOUR = ("lc_l0", "lc_l0_l2", "constrained_l0", "cs", "gated_decay")
"""The methods of the four published systems that this library rebuilds."""
BASELINES = ("magnitude", "rigl")
_AFFORDABLE = 1.1
_GRIDS = (
    "The grids themselves were laid around settings that earlier experiments of this repository "
    "had found, in some of which test errors were on the screen."
)
_GRIDS_ADAPTED = (
    "The grids are those of LeNet300, which earlier experiments of this repository had found, in "
    "some of which test errors were on the screen, with other rates and mu; how these were found, "
    "by validation errors, and which candidates do not train stands in tuning.md beside the "
    "published report."
)
FIELDS = ("kept", "nonzeros", "nonzeros_after_search", "epochs", "seconds")


def rows(config: Config, ended: Mapping[str, Sequence[Any]], command: str) -> list[Row]:
    """The rows of report.json: the tuning of each method, then its budgets."""
    del command
    found = []
    for network in config.networks():
        for method in names():
            tuning = ended.get(f"{network}_{method}_tuning")
            if tuning:
                found.append(_tuning_row(config, network, method, tuning))
            for budget in ("100", *TASKS[network].budgets):
                name = f"{network}_{method}_{budget}"
                every = [run.result() for run in ended.get(name, ())]
                if every:
                    results = [result for result in every if "diverged" not in result]
                    about = {"network": network, "method": method, "kept_percent": budget}
                    row = describe(config, name, every, **about)
                    row["seeds"] = [result["seed"] for result in results]
                    if diverged := [result["seed"] for result in every if "diverged" in result]:
                        row["diverged_seeds"] = diverged
                    found.append(row | (aggregate(results, FIELDS) if results else {}))
    return found


def _tuning_row(config: Config, network: str, method: str, runs: Sequence[Any]) -> Row:
    results = [run.result() for run in runs]
    row = describe(config, f"{network}_{method}_tuning", results, network=network, method=method)
    tried = [
        {
            "settings": _varied(method, result["settings"]),
            "validation_error": result.get("validation_error"),
        }
        for result in results
    ]
    known = [one for one in tried if one["validation_error"] is not None]
    best: Row = min(known, key=lambda one: one["validation_error"], default={"settings": {}})
    del row["settings"]
    return row | {"tried": tried, "chosen": best["settings"]}


def _varied(method: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in which the candidates of a method differ."""
    return {name: settings[name] for name in METHODS[method].candidates[0]}


def compared(rows: Sequence[Row], network: str) -> dict[str, dict[str, Row]]:
    """The rows of a network by budget and method, the most weights first.

    Methods of which every seed diverged have no error and are left out.
    """
    found: dict[str, dict[str, Row]] = {}
    for row in _in_order(rows):
        if row["network"] == network and "kept_percent" in row and row["seeds"]:
            found.setdefault(row["kept_percent"], {})[row["method"]] = row
    return {budget: found[budget] for budget in sorted(found, key=float, reverse=True)}


def _in_order(rows: Sequence[Row]) -> list[Row]:
    """The rows as the table has them: rows that were added to a report come last in it."""
    return sorted(rows, key=lambda row: names().index(row["method"]))


def always_diverged(rows: Sequence[Row], network: str) -> str:
    """Return a sentence on the methods of which every seed diverged; empty where there is none."""
    without = [
        f"{METHODS[row['method']].title} at {row['kept_percent']} %"
        for row in _in_order(rows)
        if row["network"] == network and "kept_percent" in row and not row["seeds"]
    ]
    return f"Every run diverged of: {', '.join(without)}." if without else ""


def complete(by_budget: Mapping[str, Mapping[str, Row]]) -> bool:
    """Whether there is a dense network, and a pruned one to set beside it."""
    return "100" in by_budget and len(by_budget) > 1


def all_rows(by_budget: Mapping[str, Mapping[str, Row]]) -> list[Row]:
    """The rows of every budget and method."""
    return [row for found in by_budget.values() for row in found.values()]


def cost(method: str, by_budget: Mapping[str, Mapping[str, Row]]) -> float:
    """Seconds of a method's fastest run over those of the fastest dense one.

    The fastest counts because no budget or seed costs more than another, but other programs do.
    Rows that were made in other pieces than the dense one count only where there are no others,
    since machines differ.
    """
    dense = by_budget["100"]["dense"]
    rows = [budget[method] for budget in by_budget.values() if method in budget]
    alike = [row for row in rows if row.get("made_by") == dense.get("made_by")]
    seconds: float = min(min(row["seconds"]) for row in alike or rows) / min(dense["seconds"])
    return seconds


def _mean(row: Row) -> float:
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
    best = min(candidates, key=_mean)
    gaps = [(row, *difference(row, best)) for row in candidates if row is not best]
    equal = [row for row, gap, spread in gaps if gap <= spread]
    also = ", ".join(METHODS[row["method"]].title for row in sorted(equal, key=_mean))
    return f"{METHODS[best['method']].title}: {_error(best, seeds)}" + (
        f"; as good: {also}" if also else ""
    )


def choices(by_budget: Mapping[str, Mapping[str, Row]]) -> list[dict[str, str]]:
    """Return the lines of the table of what to use when, one for each budget."""
    lines, seeds = [], seeds_of(all_rows(by_budget))
    for budget, found in by_budget.items():
        if budget != "100":
            cheap = [row for m, row in found.items() if cost(m, by_budget) <= _AFFORDABLE]
            sparse = [row for name, row in found.items() if METHODS[name].always_sparse]
            lines.append(
                {
                    "budget": budget,
                    "error": _best(list(found.values()), seeds),
                    "cheap": _best(cheap, seeds),
                    "sparse": _best(sparse, seeds),
                }
            )
    return lines


def errors_table(by_budget: Mapping[str, Mapping[str, Row]]) -> Table:
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
            lowest = min(map(_mean, by_budget[budget].values()))
            return f"**{found}**" if _mean(row) == lowest else found

        return text

    def relative(method: str) -> str:
        return f"{cost(method, by_budget):.2f}"

    columns: list[Any] = [("method", lambda method: f"{METHODS[method].title} [{method}]")]
    columns += [(f"{budget} % left", cell(budget)) for budget in budgets]
    columns += [("seconds, dense = 1", relative)]
    return Table(columns, methods)


CHOICES: Columns = (
    ("weights left", lambda line: f"{line['budget']} %"),
    ("lowest error", lambda line: line["error"]),
    (f"within {_AFFORDABLE} times dense training", lambda line: line["cheap"]),
    ("never above the budget", lambda line: line["sparse"]),
)


def _target_table(by_budget: Mapping[str, Mapping[str, Row]]) -> Table | None:
    lines = []
    for budget, found in by_budget.items():
        several = {name: row for name, row in found.items() if len(row["seeds"]) > 1}
        ours = [several[name] for name in FOUR if name in several]
        if budget == "100" or not ours or not all(name in several for name in BASELINES):
            continue
        best = min(ours, key=_mean)
        line = {"budget": budget, "best": METHODS[best["method"]].title}
        for name in BASELINES:
            gap, spread = difference(best, found[name])
            verdict = "yes" if gap < -spread else "no"
            line[name] = f"{gap:+.2f} ± {spread:.2f} ({verdict})"
        lines.append(line)
    if not lines:
        return None
    columns: list[Any] = [
        ("weights left", lambda line: f"{line['budget']} %"),
        ("best of the four systems", lambda line: line["best"]),
    ]
    columns += [
        (f"less than {METHODS[name].title}?", lambda line, name=name: line[name])
        for name in BASELINES
    ]
    return Table(columns, lines)


def _tuning_table(rows: Sequence[Row]) -> Table:
    def settings(values: Mapping[str, Any]) -> str:
        return ", ".join(
            f"{name} {value:g}" if not isinstance(value, str) else f"{name} {value}"
            for name, value in values.items()
        )

    def tried(row: Row) -> str:
        return "; ".join(
            f"{settings(one['settings'])}: "
            + ("diverged" if (e := one["validation_error"]) is None else f"{e:.2f} %")
            for one in row["tried"]
        )

    columns: Columns = (
        ("method", lambda row: f"[{row['method']}]"),
        ("candidates and their validation errors", tried),
        ("chosen", lambda row: settings(row["chosen"])),
    )
    return Table(columns, rows, on_screen=False)


def _networks(rows: Sequence[Row]) -> list[str]:
    return [network for network in TASKS if any(row["network"] == network for row in rows)]


def parts(rows: Sequence[Row]) -> Parts:
    """The report."""
    found: list[Part] = ["# Which method to use"]
    for network in _networks(rows):
        task, by_budget = TASKS[network], compared(rows, network)
        found.append(f"## {titled(task.name, task.dataset)}")
        if complete(by_budget):
            (dense,) = by_budget["100"].values()
            seeds = ", ".join(map(str, seeds_of(all_rows(by_budget))))
            found += [
                errors_table(by_budget),
                f"Test errors in per cent at the end of training, mean ± sample standard deviation "
                f"over seeds {seeds}. Every method has "
                f"{dense['settings']['epochs']} epochs in all, searches and fine-tuning included, "
                "the same images in batches of the same size and the same initial weights. Weights "
                "left are those of the kernels; biases are dense. No network has more weights than "
                "its budget. Seconds are those of the fastest run of a method, among those of the "
                "commands that made the dense runs. "
                f"{fewer_seeds(by_budget)}".rstrip(),
                "### What to use when",
                Table(CHOICES, choices(by_budget)),
                "The rule: the method of the lowest mean test error among all, among those whose "
                f"runs took at most {_AFFORDABLE} times the seconds of dense training, and among "
                "those that never hold more weights than the budget. Methods whose mean is within "
                "one standard error of the difference to it count as good as it.",
                FigureFile("Test error against weights left", f"{network}_errors.png"),
                FigureFile("Training cost against test error", f"{network}_costs.png"),
            ]
            if missing := always_diverged(rows, network):
                found.append(missing)
            if one := one_seed(by_budget):
                found.append(one)
            elif targets := _target_table(by_budget):
                found += [
                    "### The four systems against gradual magnitude pruning and RigL",
                    targets,
                    "Difference of the mean test errors and its standard error, in points of "
                    "per cent; yes: lower by more than the standard error.",
                ]
        tuned = [row for row in _in_order(rows) if row["network"] == network and "tried" in row]
        if tuned:
            found += [
                "### How the settings were chosen",
                f"Four candidates for each method, trained for {task.tuning_epochs} epochs with "
                f"{task.tuned_at} % of the weights and seed {TUNING_SEED}, which no reported run "
                "has. The lowest validation error decides, of equal ones the first (5,000 images "
                "held out of the training set); the script makes the choice before any test error "
                f"is computed. {_GRIDS_ADAPTED if task.replaced else _GRIDS}",
                _tuning_table(tuned),
            ]
    return [*found, MadeBy()]


def figures(rows: Sequence[Row], ended: Mapping[str, Sequence[Any]]) -> dict[str, Picture]:
    """Error against weights left, and cost against error, for each network."""
    del ended
    found: dict[str, Picture] = {}
    for network in _networks(rows):
        by_budget = compared(rows, network)
        if complete(by_budget):
            found[f"{network}_errors.png"] = pictures.errors(by_budget)
            found[f"{network}_costs.png"] = pictures.costs(by_budget, cost)
    return found
