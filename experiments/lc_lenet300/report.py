"""The paper's table beside ours: report.json, report.md and the same table on the screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.common.results import made_by, summary, write_report
from experiments.common.tables import error, markdown, screen
from experiments.lc_lenet300.config import PUBLISHED, Row
from experiments.lc_lenet300.train import Run

EXPERIMENT = "lc_lenet300"
_TITLES = {
    "reference": "reference, ReLU",
    "reference_tanh": "reference, tanh",
    "l0": "l0",
    "l1": "l1",
    "l0_l2": "l0 + l2",
    "l0_l2_relu": "l0 + l2",
    "l0_l2_1pct": "l0 + l2 at 1 %",
}


def table_rows(runs: Mapping[Row, Sequence[Run]]) -> list[dict[str, Any]]:
    """The rows of report.json: one for each method, a value for each of its ended runs."""
    rows = []
    for name, of_row in runs.items():
        results = [run.result() for run in of_row]
        config = of_row[0].config
        settings = {k: v for k, v in results[0]["settings"].items() if k != "seed"}
        column = lambda key, results=results: [result[key] for result in results]  # noqa: E731
        rows.append(
            {
                "name": name,
                "model": "lenet300",
                "dataset": "mnist",
                "method": settings.pop("row"),
                "preset": config.preset,
                "seeds": [run.seed for run in of_row],
                "test_error": summary(column("test_error")),
                "validation_error": summary(column("validation_error")),
                "nonzeros": column("nonzeros"),
                "density": column("density"),
                "layer_nonzeros": column("layer_nonzeros"),
                "live_units": column("live_units"),
                "bzip2_bytes": column("bzip2_bytes"),
                "seconds": column("seconds"),
                "published": PUBLISHED.get(name, {}),
                "settings": settings,
            }
        )
    return rows


def write(folder: Path, command: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Write report.json and report.md into ``folder``; return the table for the screen."""
    write_report(folder, EXPERIMENT, command, rows)
    header = [
        "row", "units", "published error", "ours: test error", "validation", "weights left",
        "published units", "ours: units left (most over seeds)", "seconds a run",
    ]  # fmt: skip
    cells = [_cells(row) for row in rows]
    seeds = sorted({seed for row in rows for seed in row["seeds"]})
    lines = [
        "# LeNet300 on MNIST, compressed by learning-compression",
        "",
        *markdown(header, cells),
        "",
        "Errors in per cent at the end of training, mean ± sample standard deviation over seeds "
        f"{', '.join(map(str, seeds))}. The validation split is 5,000 "
        "images held out of the training set, never trained on. Test errors were visible while the "
        "settings were searched for, so they are not blind estimates (see BUILD_NOTES.md). "
        "Published: Idelbayev and Carreira-Perpiñán, ICASSP 2022.",
        "",
        made_by(command),
        "",
        *markdown(
            [
                "row",
                "weights left in the three layers (first seed)",
                "bytes after BZIP2 (float32, biases too)",
            ],
            [_sizes(row) for row in rows],
        ),
        "",
        "![Error and distance along the LC steps](curves.png)",
        "",
        "![Input pixels that survive](pixels.png)",
        "",
        "![Weights of each layer before and after](connectivity.png)",
    ]
    (folder / "report.md").write_text("\n".join(lines) + "\n")
    return screen(header, cells)


def _cells(row: Mapping[str, Any]) -> list[str]:
    published, ours = row["published"], row["test_error"]
    most = [max(units) for units in zip(*row["live_units"], strict=True)]
    return [
        f"{_TITLES[row['name']]} [{row['name']}]",
        row["settings"]["activation"],
        f"{published['test_error']:.2f} %" if published else "(none)",
        error(ours),
        f"{row['validation_error']['mean']:.2f} %",
        f"{max(row['nonzeros']):,} ({100 * max(row['density']):.2f} %)",
        "-".join(map(str, published["live_units"])) if published else "(none)",
        "-".join(map(str, most)),
        f"{sum(row['seconds']) / len(row['seconds']):.0f}",
    ]


def _sizes(row: Mapping[str, Any]) -> list[str]:
    return [
        f"[{row['name']}]",
        " + ".join(f"{count:,}" for count in row["layer_nonzeros"][0]),
        f"{row['bzip2_bytes'][0]:,}",
    ]
