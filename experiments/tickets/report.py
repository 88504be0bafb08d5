"""What was found, by method: report.json, report.md and the same table on the screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.common.results import made_by, summary, write_report
from experiments.common.tables import markdown, screen
from experiments.tickets.config import Config

EXPERIMENT = "tickets"


def table_rows(config: Config, found: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict]:
    """The rows of report.json: one for each method, round and place in its grid."""
    rows = []
    for method, results in found.items():
        points: dict[tuple, list[Mapping[str, Any]]] = {}
        for result in results:
            point = ((n, result[n]) for n in ("initial", "penalty", "fraction") if n in result)
            points.setdefault((result["round"], *point), []).append(result)
        for (_, *place), same in points.items():
            first = same[0]
            row: dict[str, Any] = {
                "name": f"{config.model}_{config.trained_on()}_{method}",
                "model": config.model,
                "dataset": config.trained_on(),
                "method": method,
                "preset": config.preset,
                "seeds": [result["seed"] for result in same],
                "round": first["round"],
                "search_epochs": first["search_epochs"],
                "hyperparameters": dict(place),
                "nonzeros": [result["nonzeros"] for result in same],
                "density": [result["density"] for result in same],
            }
            for key in ("test_error", "validation_error"):
                row[key] = summary([result[key] for result in same])
            rows.append(row)
    return rows


def write(folder: Path, command: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Write report.json and report.md into ``folder``; return the table for the screen."""
    write_report(folder, EXPERIMENT, command, rows)
    header = [
        "method", "hyperparameters", "round", "epochs of search", "weights left, mean",
        "test error of the trained ticket", "validation",
    ]  # fmt: skip
    cells = [_cells(row) for row in rows]
    lines = [
        f"# Tickets: {rows[0]['model']} on {rows[0]['dataset']}",
        "",
        *markdown(header, cells),
        "",
        "Mean and sample standard deviation over the seeds "
        f"({', '.join(map(str, rows[0]['seeds']))}), at the end of training. Densities are of the "
        "kernels; biases are not searched.",
        "",
        made_by(command),
        "",
        "![Error against the weights left](tickets.png)",
        "",
        "![Epochs spent against the weights left](cost.png)",
    ]
    (folder / "report.md").write_text("\n".join(lines) + "\n")
    return screen(header, cells)


def _cells(row: Mapping[str, Any]) -> list[str]:
    error, hyper = row["test_error"], row["hyperparameters"]
    return [
        f"[{row['name']}]",
        ", ".join(f"{name} {value:g}" for name, value in hyper.items()),
        str(row["round"]),
        str(row["search_epochs"]),
        f"{np.mean(row['nonzeros']):,.0f} ({np.mean(row['density']):.2%})",
        f"{error['mean']:.2f} ± {error['std']:.2f} %",
        f"{row['validation_error']['mean']:.2f} %",
    ]
