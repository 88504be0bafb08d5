"""The paper's table beside ours: report.json, report.md and the same table on the screen."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.common.results import made_by, summary, write_report
from experiments.common.tables import error, markdown, screen
from experiments.constrained_l0.config import PUBLISHED, SOUGHT, Config, Row
from experiments.constrained_l0.networks import published_macs
from experiments.constrained_l0.train import Run
from sparsejax.training import write_json

EXPERIMENT = "constrained_l0"
_MODELS = {"mlp": "lenet300", "lenet5": "lenet5"}
_WHOLE = {"lenet300": (784, 300, 100), "lenet5": (20, 50, 800, 500)}
_TITLES: Mapping[str, str] = {
    "mlp_33": "MLP, 33 % of the parameters",
    "mlp_layerwise_30": "MLP, 30 % of each layer",
    "mlp_penalized": "MLP, penalty 0.1/N",
    "lenet5_10": "LeNet5, 10 % of the parameters",
    "lenet5_penalized": "LeNet5, penalty 0.1/N",
    "mlp_33_restarts": "MLP, 33 %, dual ascent with restarts",
    "mlp_33_ascent": "MLP, 33 %, dual ascent without",
    "mlp_33_published": "MLP, 33 %, the published defaults",
}
_COLUMNS = (
    "validation_error", "nonzeros", "density", "expected_density", "layer_expected_density",
    "architecture", "macs", "macs_share", "published_macs", "published_macs_share",
    "largest_violation", "multiplier", "purging_moved_a_logit_by", "seconds",
)  # fmt: skip


def table_rows(config: Config, ended: Mapping[Row, Sequence[Run]]) -> list[dict[str, Any]]:
    """The rows of report.json: a value for each ended run."""
    rows = []
    for name, runs in ended.items():
        row = _common(name, runs) | {"preset": config.preset, "seeds": list(config.seeds_of(name))}
        if name == "controllability":
            row |= _controllability(runs)
        elif name == "bisection":
            row |= _bisection(runs)
        else:
            row |= _of_seeds(runs)
        rows.append(row)
    return rows


def _common(name: Row, runs: Sequence[Run]) -> dict[str, Any]:
    settings = {k: v for k, v in runs[0].settings.items() if k not in ("seed", "row")}
    return {
        "name": name,
        "model": _MODELS[settings.pop("network")],
        "dataset": "mnist",
        "method": "constrained_l0" if "target" in settings else "penalized_l0",
        "published": PUBLISHED.get(name, {}),
        "settings": settings,
    }


def _of_seeds(runs: Sequence[Run]) -> dict[str, Any]:
    results = [run.result() for run in runs]
    row: dict[str, Any] = {key: [result[key] for result in results] for key in _COLUMNS}
    row["validation_error"] = summary(row["validation_error"])
    for key in ("test_error", "best_test_error"):
        row[key] = summary([result[key] for result in results])
    inside = [result["best_test_error_inside"] for result in results]
    row["best_test_error_inside"] = None if None in inside else summary(inside)
    return row


def _controllability(runs: Sequence[Run]) -> dict[str, Any]:
    targets = sorted({run.settings["target"] for run in runs})
    by_target = [
        {"target": target} | _of_seeds([run for run in runs if run.settings["target"] == target])
        for target in targets
    ]
    gaps = [
        density - found["target"] for found in by_target for density in found["expected_density"]
    ]
    of_all = _of_seeds(runs)
    return {
        "by_target": by_target,
        "highest_excess": max(gaps),
        "largest_gap": max(map(abs, gaps)),
        "test_error": of_all["test_error"],
        "validation_error": of_all["validation_error"],
        "expected_density": of_all["expected_density"],
        "seconds": of_all["seconds"],
    }


def _bisection(runs: Sequence[Run]) -> dict[str, Any]:
    found = abs(runs[-1].result()["expected_density"] - SOUGHT["target"]) <= SOUGHT["tolerance"]
    return _of_seeds(runs) | {
        "penalties": [run.settings["penalty"] for run in runs],
        "sought": SOUGHT,
        "runs": len(runs),
        "found": found,
    }


def write(folder: Path, command: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Write report.json and report.md into ``folder``; return the table for the screen."""
    write_report(folder, EXPERIMENT, command, rows)
    return _write_text(folder, made_by(command), rows)


def renew(folder: Path) -> str:
    """Write both again from report.json: with today's published figures and wording.

    What was measured, on which machine and with what stays; so no run is needed.
    """
    path = folder / "report.json"
    found = json.loads(path.read_text())
    for row in found["rows"]:
        row["published"] = PUBLISHED.get(row["name"], {})
        for part in (row, *row.get("by_target", ())):
            if "architecture" in part:
                counts = [published_macs(units) for units in part["architecture"]]
                whole = published_macs(_WHOLE[row["model"]])
                part["published_macs"] = counts
                part["published_macs_share"] = [count / whole for count in counts]
    write_json(path, found)
    text = (folder / "report.md").read_text()
    (made,) = (line for line in text.splitlines() if line.startswith("Made by "))
    return _write_text(folder, made, found["rows"])


def _write_text(folder: Path, made: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Write report.md; ``made`` says what made it. Return the table for the screen."""
    simple = [row for row in rows if row["name"] in _TITLES]
    lines = ["# Constrained L0 on MNIST", ""]
    shown = []
    if simple:
        epochs = sorted({row["settings"]["epochs"] for row in simple})
        lines += [*main_table(simple), "", _reading(simple, epochs), ""]
        shown.append(_main_screen(simple))
    for row in rows:
        if row["name"] == "controllability":
            about = f"The MLP, {row['settings']['epochs']} epochs a run, seeds {row['seeds']}."
            lines += ["## Asked for, and got", "", about, "", *controllability_table(row), ""]
            lines += ["![Density against target](controllability.png)", ""]
            shown.append(screen(*_controllability_cells(row)))
        if row["name"] == "bisection":
            lines += ["## A constraint against a penalty", "", _bisection_text(row), ""]
            lines += [*markdown(*_bisection_cells(row)), ""]
            shown.append(screen(*_bisection_cells(row)))
    lines += [
        made,
        "",
    ]
    if simple:
        lines += [
            "![Density, multiplier and error along the training](dynamics.png)",
            "",
            "![The gates at the end](gates.png)",
        ]
    (folder / "report.md").write_text("\n".join(lines).rstrip() + "\n")
    return "\n\n".join(shown)


def main_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The rows with one target or penalty each, as Markdown."""
    return markdown(*_main_cells(rows))


def controllability_table(row: Mapping[str, Any]) -> list[str]:
    """The densities reached at each target, as Markdown."""
    return markdown(*_controllability_cells(row))


def _main_screen(rows: Sequence[Mapping[str, Any]]) -> str:
    return screen(*_main_cells(rows))


def _main_cells(rows: Sequence[Mapping[str, Any]]):
    header = [
        "row", "epochs", "published: final / best error", "ours: final test error", "best epoch",
        "best inside", "validation", "expected density (highest)", "left after purging",
        "published", "ours (first seed)", "products left", "MACs left: published", "ours",
    ]  # fmt: skip
    return header, [_main_row(row) for row in rows]


def _main_row(row: Mapping[str, Any]) -> list[str]:
    published = row["published"]
    saved = published.get("saved_runs", {})
    final = published.get("test_error", saved.get("test_error"))
    best = published.get("best_test_error")
    inside = row["best_test_error_inside"]
    units = published.get("architecture")
    return [
        f"{_TITLES[row['name']]} [{row['name']}]",
        str(row["settings"]["epochs"]),
        f"{_or_none(final)} / {_or_none(best)}",
        error(row["test_error"]),
        f"{row['best_test_error']['mean']:.2f} %",
        f"{inside['mean']:.2f} %" if inside else "(none)",
        f"{row['validation_error']['mean']:.2f} %",
        f"{100 * max(row['expected_density']):.2f} %",
        f"{100 * max(row['density']):.2f} %",
        "-".join(map(str, units)) if units else "(none)",
        "-".join(map(str, row["architecture"][0])),
        f"{100 * row['macs_share'][0]:.1f} %",
        f"{100 * saved['macs_share']:.1f} %" if "macs_share" in saved else "(none)",
        f"{100 * row['published_macs_share'][0]:.1f} %",
    ]


def _or_none(value: float | None) -> str:
    return "(none)" if value is None else f"{value:.2f} %"


def _reading(rows: Sequence[Mapping[str, Any]], epochs: Sequence[int]) -> str:
    seeds = sorted({seed for row in rows for seed in row["seeds"]})
    moved = max(max(row["purging_moved_a_logit_by"]) for row in rows)
    whole = any(row["settings"]["whole_training_set"] for row in rows)
    trained = (
        "trained on all 60,000 images, the validation split among them"
        if whole
        else "trained on 55,000 images; the validation split is the other 5,000"
    )
    shorter = (
        f"These runs have {', '.join(map(str, epochs))} epochs, the published 200. "
        if min(epochs) < 200
        else ""
    )
    return (
        "Errors in per cent of the deterministic purged network, mean ± sample standard deviation "
        f"over seeds {', '.join(map(str, seeds))}, {trained}. {shorter}*Final*: after the last "
        "epoch. *Best epoch*: the lowest test error of any epoch, picked on the test split as the "
        "published figures are, so optimistic; *best inside*: the same among epochs that satisfy "
        "the constraint. *Expected density*: what the constraint bounds. *Left after purging*: "
        "parameters of the smaller dense network. Its logits differ from the gated network's by at "
        f"most {moved:.1g}. *Products left*: multiplications in dense layers and convolutions, of "
        "266,200 (MLP) and 2,293,000 (LeNet5). *MACs left*: counted as published, where biases, "
        "ReLU and pooling count too, of 267,010 and 2,327,130; ours of the first seed, published "
        f"the mean. {_initialisation(rows)} Published: Gallego-Posada, Ramirez and Erraqabi (its "
        "final errors, and all figures by layer, from the authors' saved runs; the best errors are "
        "the lowest of any seed); penalised: Louizos, Welling and Kingma, ICLR 2018."
    )


def _initialisation(rows: Sequence[Mapping[str, Any]]) -> str:
    """How the kernels and biases of the rows started."""
    ways = {
        "fan_out": "kernels start normal with variance 2 / fan-out and biases at zero",
        "published": "kernels and biases start as in the published code",
    }
    found: dict[str, list[str]] = {}
    for row in rows:  # rows of before there was a choice do not name it
        way = row["settings"].get("initialisation", "fan_out")
        found.setdefault(way, []).append(row["name"])
    said = [
        ways[way] if len(found) == 1 else f"in {', '.join(names)} {ways[way]}"
        for way, names in found.items()
    ]
    differs = (
        " (in the published code convolutions go by fan-in, which makes LeNet5's first two start "
        "with 4.5 and 1.6 times the standard deviation, and biases have 0.01)"
        if "fan_out" in found
        else ""
    )
    text = "; ".join(said)
    return f"{text[0].upper()}{text[1:]}{differs}."


def _controllability_cells(row: Mapping[str, Any]):
    header = [
        "target", "expected density: lowest", "highest", "left after purging",
        "ours: final test error", "best epoch",
    ]  # fmt: skip
    return header, [
        [
            f"{100 * found['target']:g} %",
            f"{100 * min(found['expected_density']):.2f} %",
            f"{100 * max(found['expected_density']):.2f} %",
            f"{100 * max(found['density']):.1f} %",
            error(found["test_error"]),
            f"{found['best_test_error']['mean']:.2f} %",
        ]
        for found in row["by_target"]
    ]


def _bisection_text(row: Mapping[str, Any]) -> str:
    sought = row["sought"]
    end = (
        f"{row['runs']} penalised runs were needed"
        if row["found"]
        else f"{row['runs']} penalised runs did not suffice"
    )
    return (
        f"To end within {100 * sought['tolerance']:g} point of {100 * sought['target']:g} %, with "
        f"the penalty bisected in its logarithm from [{sought['lowest']:g}, "
        f"{sought['highest']:g}], {end}; under the constraint it takes one."
    )


def _bisection_cells(row: Mapping[str, Any]):
    header = ["run", "penalty", "expected density", "final test error"]
    columns = zip(
        row["penalties"], row["expected_density"], row["test_error"]["values"], strict=True
    )
    return header, [
        [str(number), f"{penalty:g}", f"{100 * density:.2f} %", f"{error:.2f} %"]
        for number, (penalty, density, error) in enumerate(columns, 1)
    ]
