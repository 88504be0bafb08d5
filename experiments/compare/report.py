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
    difference,
    error,
    seeds_of,
    titled,
)
from experiments.common.runner import Picture
from experiments.compare import figures as pictures
from experiments.compare.choices import (
    CHOICES,
    all_rows,
    choices,
    compared,
    complete,
    errors_table,
    fewer_seeds,
    in_order,
    mean_error,
    one_seed,
)
from experiments.compare.config import TASKS, TUNING_SEED, unit_counts
from experiments.compare.costs import AFFORDABLE, Costs, costs_of, rounds_of
from experiments.compare.methods import METHODS

FOUR = ("lc_l0", "lc_l0_l2", "constrained_l0", "cs", "gated_decay")
"""The methods of the four published systems that this library rebuilds."""
BASELINES = ("magnitude", "rigl")
_SEEDS_TO_JUDGE = 10
_GRIDS = (
    "The grids themselves were laid around settings that earlier experiments of this repository "
    "had found, in some of which test errors were on the screen."
)
_AGAIN = (
    "`make results JAXPRUNER=CHECKOUT` makes this report again, with all others. The comparison "
    "alone is one command, `python -m experiments.compare --jaxpruner CHECKOUT`, with `--resume` "
    "after an interruption. CHECKOUT is the folder of a checkout of JaxPruner; without it its rows "
    "are missing. The commands below made what is above; with `--partial` a command only reports "
    "what others have trained."
)
_GRIDS_ADAPTED = (
    "The grids are those of LeNet300, which earlier experiments of this repository had found, in "
    "some of which test errors were on the screen, with other rates and mu; how these were found, "
    "by validation errors, and which candidates do not train stands in tuning.md beside the "
    "published report."
)


def always_diverged(rows: Sequence[Row], network: str) -> str:
    """Return a sentence on the methods of which every seed diverged; empty where there is none."""
    without = [
        f"{METHODS[row['method']].title} at {row['kept_percent']} %"
        for row in in_order(rows)
        if row["network"] == network and "kept_percent" in row and not row["seeds"]
    ]
    return f"Every run diverged of: {', '.join(without)}." if without else ""


def _target_table(by_budget: Mapping[str, Mapping[str, Row]]) -> Table | None:
    lines = []
    for budget, found in by_budget.items():
        several = {name: row for name, row in found.items() if len(row["seeds"]) > 1}
        ours = [several[name] for name in FOUR if name in several]
        if budget == "100" or not ours or not all(name in several for name in BASELINES):
            continue
        best = min(ours, key=mean_error)
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


def _values(row: Row) -> list[float]:
    values: list[float] = row["test_error"]["values"]
    return values


def structure_tables(by_budget: Mapping[str, Mapping[str, Row]], network: str) -> list[Table]:
    """Return the live units and the weights of each layer, seed by seed; nothing where no row has
    counted them.
    """
    counted = [row for row in all_rows(by_budget) if row.get("live_units")]
    if not counted:
        return []
    task, sizes = TASKS[network], unit_counts(network)
    about: list[Any] = [
        ("method", lambda row: METHODS[row["method"]].title),
        ("weights left", lambda row: f"{row['kept_percent']} %"),
    ]

    def units(place: int) -> Callable[[Row], str]:
        return lambda row: ", ".join(str(live[place]) for live in row["live_units"])

    def weights(layer: str) -> Callable[[Row], str]:
        return lambda row: ", ".join(f"{of[layer]}" for of in row["layer_nonzeros"])

    errors = ("test error, %", lambda row: ", ".join(map("{:.2f}".format, _values(row))))
    hidden = [
        (f"{layer}, of {sizes[layer]}", units(place))
        for place, layer in enumerate(task.layers[:-1], start=1)
    ]
    kernels = [(f"weights of {layer}", weights(layer)) for layer in task.layers]
    return [
        Table([*about, *columns], counted, on_screen=False)
        for columns in ([errors, *hidden], kernels)
    ]


def _networks(rows: Sequence[Row]) -> list[str]:
    return [network for network in TASKS if any(row["network"] == network for row in rows)]


def _hours(rows: Sequence[Row], network: str) -> float:
    """Hours of all runs of a network whose errors are reported, one after another."""
    there = [row for row in rows if row["network"] == network]
    return sum(sum(row.get("seconds", ())) for row in there) / 3600


def _errors(rows: Sequence[Row], network: str) -> list[Part]:
    """The errors, costs and choices of a network."""
    by_budget, costs = compared(rows, network), costs_of(rows, network)
    (dense,) = by_budget["100"].values()
    seeds = ", ".join(map(str, seeds_of(all_rows(by_budget))))
    text = (
        f"Test errors in per cent at the end of training, mean ± sample standard deviation over "
        f"seeds {seeds}. Every method has {dense['settings']['epochs']} epochs in all, searches "
        "and fine-tuning included, the same images in batches of the same size and the same "
        "initial weights. Weights left are those of the kernels; biases are dense. No network has "
        f"more weights than its budget. {fewer_seeds(by_budget)}"
    ).rstrip()
    methods = {name for found in by_budget.values() for name in found} - {"dense"}
    if any(methods - found.keys() for budget, found in by_budget.items() if budget != "100"):
        text += " Empty cells have not been run."
    rule = (
        "The rule: the method of the lowest mean test error among all, among those whose steps "
        f"take at most {AFFORDABLE} times as long as those of dense training, and among those that "
        "never hold more weights than the budget. Methods whose mean is within one standard error "
        "of the difference to it count as good as it. Means are over the seeds that did not "
        "diverge; where one of the best method did, the best of those that never did is named, too."
    )
    found: list[Part] = [errors_table(by_budget, costs), text]
    if costs:
        found.append(_about_costs(rows, network, costs))
    found += ["### What to use when", Table(CHOICES, choices(by_budget, costs)), rule]
    if doubtful := [METHODS[name].title for name, cost in costs.items() if cost.in_doubt]:
        found.append(
            f"Within a standard error of {AFFORDABLE}, so that more rounds may move them across, "
            f"are the medians of {', '.join(doubtful)}."
        )
    found += [
        FigureFile("Test error against weights left", f"{network}_errors.png"),
        *([FigureFile("Cost of a step against test error", f"{network}_costs.png")] * bool(costs)),
    ]
    if missing := always_diverged(rows, network):
        found.append(missing)
    if one := one_seed(by_budget):
        return [*found, one]
    if targets := _target_table(by_budget):
        found += [
            "### The four systems against gradual magnitude pruning and RigL",
            targets,
            "Difference of the mean test errors and its standard error, in points of per cent; "
            "yes: lower by more than the standard error.",
        ]
    return found


def _about_costs(rows: Sequence[Row], network: str, costs: Costs) -> str:
    timed = [row for row in rows if row["network"] == network and "milliseconds_a_step" in row]
    shares = sorted({row["settings"]["image_share"] for row in timed})
    images = " or ".join(f"{100 * share:g} %" for share in shares)
    without = {row["method"] for row in all_rows(compared(rows, network))} - costs.keys()
    missing = ", ".join(METHODS[name].title for name in METHODS if name in without)
    text = (
        "The time of a step is measured in short runs, in "
        f"{rounds_of(rows, network)} rounds (fewer of a method that diverged in one) in which the "
        "methods take turns: all epochs of a "
        f"method with {images} of the images and {TASKS[network].tuned_at} % of the weights, "
        "between two pieces of dense training with which it is compared. Masks "
        "are renewed, weights projected (C steps of learning-compression) and the accuracy "
        "assessed after about as many steps as with all images; the phases of AC/DC are as long. "
        "The first epoch of each phase, in which it is compiled, and validation do not count. "
        "Given are the median, which decides, and the lowest and highest of the rounds' ratios; "
        "that of dense training to itself shows the noise. The runs of the errors "
        f"above took {_hours(rows, network):.1f} hours, one after another, with compilation, "
        "validation and what else the machine did."
    )
    return text + (f" Not timed: {missing}." if missing else "")


def _structure(rows: Sequence[Row], network: str) -> list[Part]:
    """Return the live units and weights of each layer, where runs have counted them."""
    tables = structure_tables(compared(rows, network), network)
    about = (
        "Hidden units of each layer (filters, channels) through which a signal passes at the end, "
        "and weights that are not zero, a number for each seed. A unit is counted if it reads an "
        "input or a live unit, and an output or a live unit reads it."
    )
    return ["### What is left of each layer", about, *tables] if tables else []


def _peers(rows: Sequence[Row], network: str) -> list[Part]:
    """RigL against that of JaxPruner, where both have several seeds."""
    lines = [
        (budget, found["rigl"], found["rigl_jaxpruner"])
        for budget, found in compared(rows, network).items()
        if {"rigl", "rigl_jaxpruner"} <= found.keys()
        and min(len(found[name]["seeds"]) for name in ("rigl", "rigl_jaxpruner")) > 1
    ]

    def gap(line: Any) -> str:
        return "{:+.2f} ± {:.2f}".format(*difference(line[1], line[2]))

    columns: Columns = (
        ("weights left", lambda line: f"{line[0]} %"),
        ("seeds", lambda line: f"{len(line[1]['seeds'])} and {len(line[2]['seeds'])}"),
        ("ours", lambda line: error(line[1]["test_error"])),
        ("JaxPruner's", lambda line: error(line[2]["test_error"])),
        ("difference and its standard error", gap),
    )
    about = (
        "Test errors, each with the settings that its own tuning chose. The difference is ours "
        "less JaxPruner's."
    )
    if any(len(row["seeds"]) < _SEEDS_TO_JUDGE for line in lines for row in line[1:]):
        about += (
            " The standard error of so few seeds is itself uncertain: see [ten seeds]"
            "(rigl/report.md), all trained anew."
        )
    return ["### RigL and that of JaxPruner", about, Table(columns, lines)] if lines else []


def _tuning(rows: Sequence[Row], network: str) -> list[Part]:
    """How the settings of each method were chosen."""
    task = TASKS[network]
    tuned = [row for row in in_order(rows) if row["network"] == network and "tried" in row]
    text = (
        f"Four candidates for each method, trained for {task.tuning_epochs} epochs with "
        f"{task.tuned_at} % of the weights and seed {TUNING_SEED}, which no reported run has. The "
        "lowest validation error decides, of equal ones the first (5,000 images held out of the "
        "training set); the script makes the choice before any test error is computed. "
        f"{_GRIDS_ADAPTED if task.replaced else _GRIDS}"
    )
    return ["### How the settings were chosen", text, _tuning_table(tuned)] if tuned else []


def parts(rows: Sequence[Row]) -> Parts:
    """The report."""
    whole = any(complete(compared(rows, network)) for network in _networks(rows))
    found: list[Part] = ["# Which method to use" if whole else "# Some methods of the comparison"]
    for network in _networks(rows):
        task = TASKS[network]
        found.append(f"## {titled(task.name, task.dataset)}")
        if complete(compared(rows, network)):
            found += _errors(rows, network)
        for section in (_peers, _structure, _tuning):
            found += section(rows, network)
    found.append("## What made it")
    if commits := {row["peer_commit"] for row in rows if row.get("peer_commit")}:
        found.append(f"JaxPruner was at commit {', '.join(sorted(commits))}.")
    return [*found, _AGAIN, MadeBy()]


def figures(rows: Sequence[Row], ended: Mapping[str, Sequence[Any]]) -> dict[str, Picture]:
    """Error against weights left, and cost against error, for each network."""
    del ended
    found: dict[str, Picture] = {}
    for network in _networks(rows):
        by_budget = compared(rows, network)
        if complete(by_budget):
            found[f"{network}_errors.png"] = pictures.errors(by_budget)
            if costs := costs_of(rows, network):
                found[f"{network}_costs.png"] = pictures.costs(by_budget, costs)
    return found
