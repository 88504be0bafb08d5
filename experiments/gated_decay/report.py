"""The paper's tables beside ours: report.json, report.md and the same table on the screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.common.results import made_by, summary, write_report
from experiments.common.tables import deviation, markdown, screen
from experiments.gated_decay.config import LEVELS, PHASES, PUBLISHED, Config
from experiments.gated_decay.train import Run

EXPERIMENT = "gated_decay"
_COLUMNS = (
    "nonzeros", "density", "layer_nonzeros", "layer_density", "live_units", "epochs", "prunings",
    "pruned_validation_error", "pruned_nonzeros", "parameters",
    "bzip2_bytes", "dense_bzip2_bytes", "seconds",
)  # fmt: skip


def table_rows(config: Config, ended: Mapping[str, Sequence[Run]]) -> list[dict[str, Any]]:
    """The rows of report.json, with a value for each ended run."""
    rows = []
    for name, runs in ended.items():
        results = [run.result() for run in runs]
        settings = dict(results[0]["settings"])
        dataset, compressed = settings.pop("row"), settings["kappa"] > 0
        del settings["seed"]
        row: dict[str, Any] = {
            "name": name,
            "model": config.model,
            "dataset": dataset,
            "method": "gated_weight_decay" + (", learning_compression" if compressed else ""),
            "preset": config.preset,
            "seeds": [run.seed for run in runs],
            "published": PUBLISHED[dataset],
            "settings": settings,
        }
        for key in ("test_error", "validation_error"):
            row[key] = summary([result[key] for result in results])
        if not compressed:
            row["neglected_share"] = runs[0].neglected_share()
        rows.append(row | {key: [result[key] for result in results] for key in _COLUMNS})
    return rows


def write(folder: Path, command: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Write report.json and report.md into ``folder``; return the table for the screen."""
    write_report(folder, EXPERIMENT, command, rows)
    header = [
        "row", "by", "epochs (first seed)", "published accuracy", "ours: test accuracy", "best",
        "validation", "published sparsity", "ours: sparsity (least)", "parameters left (most)",
        "left by layer (first seed)",
        "bytes after BZIP2", "dense", "seconds a run",
    ]  # fmt: skip
    cells = [_cells(row) for row in rows]
    seeds = sorted({seed for row in rows for seed in row["seeds"]})
    lines = [
        "# Networks pruned by gated weight decay",
        "",
        *markdown(header, cells),
        "",
        "Accuracy in per cent at the end of the fine-tuning, mean ± sample standard deviation over "
        f"seeds {', '.join(map(str, seeds))}. The validation split, 5,000 images held out of "
        "the training set (of ImageNet half of its validation set, whose other half is tested on), "
        "decides when weights are pruned. Sparsity counts all parameters, biases among them. A "
        "number behind a row's name is that of the parameters at which its pruning ended, or an "
        "exact count that learning-compression went on to. LeNet5's images are shifted by up to a "
        "pixel (Fashion-MNIST's mirrored, too, both in the fine-tuning only), which those of the "
        "published runs were not. Published: Bonetta and Cancelliere, ESANN 2022.",
        *_whole(rows),
        "",
        made_by(command),
        "",
        *_neglected(rows),
        *_frontier(rows),
        "![Accuracy against the parameters left](frontier.png)",
        "",
        "![Density and error along the training](curves.png)",
        "",
        "![The weights that are left](weights.png)",
        "",
        "![The filters of the first layer](filters.png)",
    ]
    (folder / "report.md").write_text("\n".join(lines) + "\n")
    return screen(header, cells)


def _whole(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Which rows were fine-tuned on the validation images, too."""
    names = [row["name"] for row in rows if row["settings"]["finetune_whole"]]
    return names and [
        f"The fine-tuning of {', '.join(names)} saw the validation images, too, once they had "
        "decided; the validation accuracy of these rows is that before it."
    ]


def _neglected(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the cheap update leaves out."""
    shares = [
        f"{row['neglected_share']:.2%} ({row['name']})" for row in rows if "neglected_share" in row
    ]
    return [
        "The term with second derivatives that the update neglects has, right after the last "
        f"pruning, a norm of {', '.join(shares)} of the decay's.",
        "",
    ]


def _frontier(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """For each level of accuracy the row that reaches it with the fewest parameters."""
    lines = []
    for dataset in dict.fromkeys(row["dataset"] for row in rows):
        for level in LEVELS.get(dataset, ()):
            there = [r for r in rows if r["dataset"] == dataset and accuracy(r) >= level]
            reached = "none of these rows"
            if there:
                row = min(there, key=lambda row: max(row["nonzeros"]))
                reached = (
                    f"{max(row['nonzeros']):,} parameters ({1 - max(row['density']):.2%} sparsity) "
                    f"at {accuracy(row):.2f} % [{row['name']}]"
                )
            lines.append(f"- {dataset}, at least {level:.1f} %: {reached}")
    return ["The sparsest row whose mean test accuracy is", "", *lines, ""] if lines else []


def accuracy(row: Mapping[str, Any]) -> float:
    """The mean test accuracy in per cent."""
    return 100 - row["test_error"]["mean"]


def _cells(row: Mapping[str, Any]) -> list[str]:
    published, ours = row["published"], row["test_error"]
    first = row["epochs"][0]
    epochs = [first[phase] for phase in PHASES if phase in first]
    return [
        f"[{row['name']}]",
        row["method"].replace("_", " "),
        " + ".join(f"{count:g}" for count in epochs),
        f"{100 - published['test_error']:.2f} %",
        f"{100 - ours['mean']:.2f}{deviation(ours)} %",
        f"{100 - min(ours['values']):.2f} %",
        f"{100 - row['validation_error']['mean']:.2f} %",
        f"{100 - 100 * published['density']:.1f} %",
        f"{100 - 100 * max(row['density']):.2f} %",
        f"{max(row['nonzeros']):,}",
        " / ".join(f"{100 * share:.2g}" for share in row["layer_density"][0]) + " %",
        f"{row['bzip2_bytes'][0]:,}",
        f"{row['dense_bzip2_bytes'][0]:,}",
        f"{sum(row['seconds']) / len(row['seconds']):.0f}",
    ]
