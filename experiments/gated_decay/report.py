"""The paper's tables beside ours: report.json, report.md and the same table on the screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.common.results import machine, summary, versions, write_report
from experiments.common.tables import markdown, screen
from experiments.gated_decay.config import PUBLISHED, Config, Row
from experiments.gated_decay.train import Run

EXPERIMENT = "gated_decay"
_COLUMNS = (
    "nonzeros", "density", "layer_nonzeros", "layer_density", "live_units", "prunings",
    "pruned_validation_error", "bzip2_bytes", "dense_bzip2_bytes", "seconds",
)  # fmt: skip


def table_rows(config: Config, ended: Mapping[Row, Sequence[Run]]) -> list[dict[str, Any]]:
    """The rows of report.json: one for each dataset, a value for each of its ended runs."""
    rows = []
    for name, runs in ended.items():
        results = [run.result() for run in runs]
        settings = {k: v for k, v in results[0]["settings"].items() if k not in ("seed", "row")}
        row: dict[str, Any] = {
            "name": name,
            "model": "lenet5",
            "dataset": name,
            "method": "gated_weight_decay",
            "preset": config.preset,
            "seeds": [run.seed for run in runs],
            "published": PUBLISHED[name],
            "settings": settings,
        }
        for key in ("test_error", "validation_error"):
            row[key] = summary([result[key] for result in results])
        rows.append(row | {key: [result[key] for result in results] for key in _COLUMNS})
    return rows


def write(folder: Path, command: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Write report.json and report.md into ``folder``; return the table for the screen."""
    write_report(folder, EXPERIMENT, command, rows)
    host = machine()
    header = [
        "row", "epochs", "published accuracy", "ours: test accuracy", "best", "validation",
        "published sparsity", "ours: sparsity (least)", "left by layer (first seed)",
        "bytes after BZIP2", "dense", "seconds a run",
    ]  # fmt: skip
    cells = [_cells(row) for row in rows]
    seeds = sorted({seed for row in rows for seed in row["seeds"]})
    lines = [
        "# LeNet5 pruned by gated weight decay",
        "",
        *markdown(header, cells),
        "",
        "Accuracy in per cent at the end of the fine-tuning, mean ± sample standard deviation over "
        f"seeds {', '.join(map(str, seeds))}. The validation split, 5,000 images held out of "
        "the training set, decides when weights are pruned. Sparsity counts all 431,080 "
        "parameters, biases among them. Published: Bonetta and Cancelliere, ESANN 2022.",
        "",
        f"Made by `{command}` on {host['cores']} cores of {host['processor']} "
        f"({host['backend']}), " + ", ".join(f"{k} {v}" for k, v in versions().items()) + ".",
        "",
        "![Density and error along the training](curves.png)",
        "",
        "![The weights that are left](weights.png)",
        "",
        "![The filters of the first layer](filters.png)",
    ]
    (folder / "report.md").write_text("\n".join(lines) + "\n")
    return screen(header, cells)


def _cells(row: Mapping[str, Any]) -> list[str]:
    published, ours, settings = row["published"], row["test_error"], row["settings"]
    epochs = [settings[f"{phase}_epochs"] for phase in ("start", "prune", "finetune")]
    return [
        f"[{row['name']}]",
        "+".join(str(count) for count in epochs if count),
        f"{100 - published['test_error']:.2f} %",
        f"{100 - ours['mean']:.2f} ± {ours['std']:.2f} %",
        f"{100 - min(ours['values']):.2f} %",
        f"{100 - row['validation_error']['mean']:.2f} %",
        f"{100 - 100 * published['density']:.1f} %",
        f"{100 - 100 * max(row['density']):.2f} %",
        " / ".join(f"{100 * share:.2g}" for share in row["layer_density"][0]) + " %",
        f"{row['bzip2_bytes'][0]:,}",
        f"{row['dense_bzip2_bytes'][0]:,}",
        f"{sum(row['seconds']) / len(row['seconds']):.0f}",
    ]
