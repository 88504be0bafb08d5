"""The table of the paper beside ours, controllability, and the search for a penalty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    error,
    seed_list,
)
from experiments.constrained_l0.config import PUBLISHED, ROWS, SOUGHT, Config
from experiments.constrained_l0.figures import figures

__all__ = ["figures", "parts", "rows"]

_TITLES: Mapping[str, str] = {
    "mlp_33": "MLP, 33 % of the parameters",
    "mlp_layerwise_30": "MLP, 30 % of each layer",
    "mlp_penalized": "MLP, penalty 0.1/N",
    "lenet5_10": "LeNet5, 10 % of the parameters",
    "lenet5_penalized": "LeNet5, penalty 0.1/N",
    "mlp_33_restarts": "MLP, 33 %, dual ascent with restarts",
    "mlp_33_ascent": "MLP, 33 %, dual ascent without restarts",
    "mlp_33_published": "MLP, 33 %, the published defaults",
}
_FIELDS = (
    "nonzeros", "density", "expected_density", "layer_expected_density", "architecture", "macs",
    "macs_share", "published_macs", "published_macs_share", "largest_violation", "multiplier",
    "purging_logit_difference", "seconds",
)  # fmt: skip
_ERRORS = ("test_error", "validation_error", "best_test_error")


def rows(config: Config, ended: Mapping[str, Sequence[Any]], command: str) -> list[Row]:
    """The rows of report.json."""
    del command
    found = []
    for name in (name for name in ROWS if name in ended):
        results = [run.result() for run in ended[name]]
        method = "constrained_l0" if "target" in results[0]["settings"] else "penalized_l0"
        published = PUBLISHED.get(name, {})
        about = describe(config, name, results, method=method, published=published)
        del about["settings"]["network"]
        numbers = _controllability(results) if name == "controllability" else _numbers(results)
        if name == "bisection":
            gap = abs(results[-1]["expected_density"] - SOUGHT["target"])
            numbers |= {
                "penalties": [result["settings"]["penalty"] for result in results],
                "sought": SOUGHT,
                "runs": len(results),
                "found": gap <= SOUGHT["tolerance"],
            }
        found.append(about | numbers)
    return found


def _numbers(results: Sequence[Mapping[str, Any]]) -> Row:
    inside = [result["best_test_error_inside"] for result in results]
    errors = _ERRORS if None in inside else (*_ERRORS, "best_test_error_inside")
    return {"best_test_error_inside": None} | aggregate(results, _FIELDS, errors)


def _controllability(results: Sequence[Mapping[str, Any]]) -> Row:
    """The numbers of each target, and how far the densities are from their targets."""
    targets = [result["settings"]["target"] for result in results]
    by_target = [
        {"target": target}
        | _numbers([r for r, its in zip(results, targets, strict=True) if its == target])
        for target in sorted(set(targets))
    ]
    gaps = [r["expected_density"] - its for r, its in zip(results, targets, strict=True)]
    return {
        "by_target": by_target,
        "highest_excess": max(gaps),
        "largest_gap": max(map(abs, gaps)),
    } | aggregate(results, ("expected_density", "seconds"))


def _per_cent(value: float | None) -> str:
    return "(none)" if value is None else f"{value:.2f} %"


def _published_errors(row: Row) -> str:
    published = row["published"]
    final = published.get("test_error", published.get("saved_runs", {}).get("test_error"))
    return f"{_per_cent(final)} / {_per_cent(published.get('best_test_error'))}"


def _published_macs(row: Row) -> str:
    share = row["published"].get("saved_runs", {}).get("macs_share")
    return "(none)" if share is None else f"{100 * share:.1f} %"


_COLUMNS: Columns = (
    ("row", lambda row: f"{_TITLES[row['name']]} [{row['name']}]"),
    ("epochs", lambda row: str(row["settings"]["epochs"])),
    ("published: final / best error", _published_errors),
    ("ours: final test error", lambda row: error(row["test_error"])),
    ("best epoch", lambda row: f"{row['best_test_error']['mean']:.2f} %"),
    (
        "best feasible epoch",
        lambda row: _per_cent((row["best_test_error_inside"] or {"mean": None})["mean"]),
    ),
    ("validation error", lambda row: f"{row['validation_error']['mean']:.2f} %"),
    ("expected density (maximum)", lambda row: f"{100 * max(row['expected_density']):.2f} %"),
    ("density after purging", lambda row: f"{100 * max(row['density']):.2f} %"),
    (
        "published units",
        lambda row: "-".join(map(str, row["published"].get("architecture", ()))) or "(none)",
    ),
    ("ours (first seed)", lambda row: "-".join(map(str, row["architecture"][0]))),
    ("products", lambda row: f"{100 * row['macs_share'][0]:.1f} %"),
    ("published MACs", _published_macs),
    ("ours", lambda row: f"{100 * row['published_macs_share'][0]:.1f} %"),
)
_TARGETS: Columns = (
    ("target", lambda found: f"{100 * found['target']:g} %"),
    ("minimum expected density", lambda found: f"{100 * min(found['expected_density']):.2f} %"),
    ("maximum", lambda found: f"{100 * max(found['expected_density']):.2f} %"),
    ("density after purging", lambda found: f"{100 * max(found['density']):.1f} %"),
    ("final test error", lambda found: error(found["test_error"])),
    ("best epoch", lambda found: f"{found['best_test_error']['mean']:.2f} %"),
)
_PENALTIES: Columns = (
    ("run", lambda line: str(line[0])),
    ("penalty", lambda line: f"{line[1]:g}"),
    ("expected density", lambda line: f"{100 * line[2]:.2f} %"),
    ("final test error", lambda line: f"{line[3]:.2f} %"),
)


def parts(rows: Sequence[Row]) -> Parts:
    """The report."""
    main = [row for row in rows if row["name"] in _TITLES]
    found: list[Part] = ["# Constrained L0 on MNIST"]
    if main:
        found += [Table(_COLUMNS, main), _notes(main)]
    for row in rows:
        if row["name"] == "controllability":
            about = f"The MLP, {row['settings']['epochs']} epochs a run, seeds {row['seeds']}."
            found += ["## Requested and reached densities", about]
            found += [Table(_TARGETS, row["by_target"])]
            found += [FigureFile("Density against target", "controllability.png")]
        if row["name"] == "bisection":
            lines = zip(
                range(1, row["runs"] + 1), row["penalties"], row["expected_density"],
                row["test_error"]["values"], strict=True,
            )  # fmt: skip
            found += ["## A constraint against a penalty", _bisection(row)]
            found += [Table(_PENALTIES, list(lines))]
    found += [MadeBy()]
    if main:
        found += [
            FigureFile("Density, multiplier and error along the training", "dynamics.png"),
            FigureFile("The gates at the end", "gates.png"),
        ]
    return found


def _bisection(row: Row) -> str:
    sought = row["sought"]
    verdict = "were needed" if row["found"] else "did not suffice"
    return (
        f"To end within {100 * sought['tolerance']:g} point of {100 * sought['target']:g} %, with "
        f"the penalty bisected in its logarithm from [{sought['lowest']:g}, "
        f"{sought['highest']:g}], {row['runs']} penalised runs {verdict}; under the constraint one "
        "run suffices."
    )


def _notes(rows: Sequence[Row]) -> str:
    epochs = sorted({row["settings"]["epochs"] for row in rows})
    difference = max(max(row["purging_logit_difference"]) for row in rows)
    trained = (
        "trained on all 60,000 images, the validation split among them"
        if any(row["settings"]["whole_training_set"] for row in rows)
        else "trained on 55,000 images; the validation split is the other 5,000"
    )
    shorter = f"These runs have {', '.join(map(str, epochs))} epochs, the published 200. "
    return (
        "Errors in per cent of the deterministic purged network, mean ± sample standard deviation "
        f"over seeds {seed_list(rows)}, {trained}. {shorter if epochs[0] < 200 else ''}"
        "*Final*: after the last epoch. *Best epoch*: the lowest test error of any epoch, picked "
        "on the test split as the published figures are, so optimistic; *best feasible epoch*: the "
        "same among epochs that satisfy the constraint. *Expected density*: what the constraint "
        "bounds. *Density after purging*: parameters of the smaller dense network. Its logits "
        f"differ from the gated network's by at most {difference:.1g}. *Products*: multiplications "
        "in dense layers and convolutions that are left, of 266,200 (MLP) and 2,293,000 (LeNet5). "
        "*MACs*: counted as published, where biases, ReLU and pooling count too, of 267,010 and "
        f"2,327,130; ours of the first seed, published the mean. {_initialisation(rows)} "
        "Published: Gallego-Posada, Ramirez and Erraqabi (its final errors, and all figures by "
        "layer, from the authors' saved runs; the best errors are the lowest of any seed); "
        "penalised: Louizos, Welling and Kingma, ICLR 2018."
    )


def _initialisation(rows: Sequence[Row]) -> str:
    """A sentence about the initial kernels and biases of the rows."""
    ways = {
        "fan_out": "kernels start normal with variance 2 / fan-out and biases at zero",
        "published": "kernels and biases start as in the published code",
    }
    names: dict[str, list[str]] = {}
    for row in rows:
        names.setdefault(row["settings"].get("initialisation", "fan_out"), []).append(row["name"])
    said = [
        ways[way] if len(names) == 1 else f"in {', '.join(its)} {ways[way]}"
        for way, its in names.items()
    ]
    text = "; ".join(said)
    if "fan_out" in names:
        text += (
            " (in the published code convolutions go by fan-in, which makes LeNet5's first two "
            "start with 4.5 and 1.6 times the standard deviation, and biases have 0.01)"
        )
    return f"{text[0].upper()}{text[1:]}."
