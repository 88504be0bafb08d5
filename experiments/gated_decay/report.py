"""The tables of the paper beside ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.common.report import (
    Columns,
    FigureFile,
    MadeBy,
    Parts,
    Row,
    Table,
    aggregate,
    describe,
    deviation,
    seed_list,
    title_of,
)
from experiments.gated_decay.config import LEVELS, PHASES, PUBLISHED, Config
from experiments.gated_decay.figures import figures

__all__ = ["figures", "parts", "rows"]

_FIELDS = (
    "nonzeros", "density", "layer_nonzeros", "layer_density", "live_units", "epochs", "prunings",
    "pruned_validation_error", "pruned_nonzeros", "parameters", "bzip2_bytes", "dense_bzip2_bytes",
    "seconds",
)  # fmt: skip


def rows(config: Config, ended: Mapping[str, Sequence[Any]], command: str) -> list[Row]:
    """The rows of report.json."""
    del command
    found = []
    for name, runs in ended.items():
        results = [run.result() for run in runs]
        published, compressed = (
            PUBLISHED[results[0]["dataset"]],
            results[0]["settings"]["kappa"] > 0,
        )
        gated = ["gated_weight_decay"] * (not _from_dense(results[0]))
        methods = gated + ["learning_compression"] * compressed
        methods += ["distillation"] * ("finetune_distillation" in results[0]["settings"])
        method = ", ".join(methods)
        about = describe(config, name, results, method=method, published=published)
        if not compressed:
            about["neglected_share"] = results[0]["neglected_share"]
        found.append(about | aggregate(results, [f for f in _FIELDS if f in results[0]]))
    return found


def _from_dense(row: Row) -> bool:
    """Whether a row or result is of a dense network that was compressed."""
    return "compress_rate" in row["settings"]


def _accuracy(row: Row) -> float:
    """Mean test accuracy in per cent."""
    return 100 - float(row["test_error"]["mean"])


_COLUMNS: Columns = (
    ("row", lambda row: f"[{row['name']}]"),
    ("method", lambda row: row["method"].replace("_", " ")),
    (
        "epochs (first seed)",
        lambda row: " + ".join(f"{row['epochs'][0][p]:g}" for p in PHASES if p in row["epochs"][0]),
    ),
    ("published accuracy", lambda row: f"{100 - row['published']['test_error']:.2f} %"),
    (
        "ours: test accuracy",
        lambda row: f"{_accuracy(row):.2f}{deviation(row['test_error'])} %",
    ),
    ("best", lambda row: f"{100 - min(row['test_error']['values']):.2f} %"),
    ("validation accuracy", lambda row: f"{100 - row['validation_error']['mean']:.2f} %"),
    ("published sparsity", lambda row: f"{100 - 100 * row['published']['density']:.1f} %"),
    ("ours: sparsity (minimum)", lambda row: f"{100 - 100 * max(row['density']):.2f} %"),
    ("parameters left (maximum)", lambda row: f"{max(row['nonzeros']):,}"),
    (
        "density by layer (first seed)",
        lambda row: " / ".join(f"{100 * share:.2g}" for share in row["layer_density"][0]) + " %",
    ),
    ("bytes after BZIP2", lambda row: f"{row['bzip2_bytes'][0]:,}"),
    ("dense", lambda row: f"{row['dense_bzip2_bytes'][0]:,}"),
    ("seconds per run", lambda row: f"{sum(row['seconds']) / len(row['seconds']):.0f}"),
)


def parts(rows: Sequence[Row]) -> Parts:
    """The report."""
    whole = ", ".join(row["name"] for row in rows if row["settings"]["finetune_whole"])
    shares = [
        f"{row['neglected_share']:.2%} ({row['name']})" for row in rows if "neglected_share" in row
    ]
    dense = all(map(_from_dense, rows))
    decides = "which settings are taken" if dense else "when weights are pruned"
    number = (
        "that of the parameters at which its pruning ended, or an exact count that "
        "learning-compression went on to"
    )
    if dense:
        number = (
            "that of the parameters that learning-compression left; what dead units held of them "
            "went, too"
        )
    notes = (
        "Accuracy in per cent at the end of the fine-tuning, mean ± sample standard deviation over "
        f"seeds {seed_list(rows)}. The validation split, 5,000 images held out of "
        "the training set (of ImageNet half of its validation set, whose other half is tested on), "
        f"decides {decides}. Sparsity counts all parameters, biases among them. A "
        f"number behind a row's name is {number}. {_augmentation(rows)}Published: Bonetta and "
        "Cancelliere, ESANN 2022."
    )
    if whole:
        notes += (
            f"\nThe fine-tuning of {whole} saw the validation images, too, once they had decided; "
            "the validation accuracy of these rows is that before it."
        )
    distilled = [row for row in rows if "finetune_distillation" in row["settings"]]
    if distilled:
        names = ", ".join(row["name"] for row in distilled)
        shares_of_loss = {row["settings"]["finetune_distillation"] for row in distilled}
        shifted = "shifted " if all(row["settings"]["shift"] for row in distilled) else ""
        notes += (
            f"\nIn the fine-tuning of {names} a share of "
            f"{', '.join(f'{share:g}' for share in sorted(shares_of_loss))} of the loss is the "
            f"divergence from the outputs of the dense network for the same {shifted}image "
            "(Hinton, Vinyals and Dean, 2015)."
        )
    neglected = [
        "The second-order term that the update neglects has, right after the last pruning, a norm "
        f"of {', '.join(shares)} of the decay's."
    ]
    return [
        f"# {'Dense networks compressed' if dense else 'Networks pruned by gated weight decay'}",
        Table(_COLUMNS, rows),
        notes,
        MadeBy(),
        *(neglected if shares else []),
        *_sparsest(rows),
        FigureFile("Accuracy against the parameters left", "frontier.png"),
        FigureFile("Density and error along the training", "curves.png"),
        FigureFile("The weights that are left", "weights.png"),
        FigureFile("The filters of the first layer", "filters.png"),
    ]


def _augmentation(rows: Sequence[Row]) -> str:
    """Return the sentence on how the training images of LeNet5 are augmented, if they are."""
    found = {}
    for row in rows:
        settings = row["settings"]
        shift, mirror = settings["shift"], settings["mirror"]
        if row["model"] != "lenet5" or not (shift or mirror):
            continue
        pixels = "a pixel" if shift == 1 else f"{shift} pixels"
        how = [f"shifted by up to {pixels}"] * (shift > 0) + ["mirrored"] * mirror
        when = "" if settings["prune_augmented"] else " once the network is pruned"
        if _from_dense(row) and when:
            when = " once the dense network is trained"
        found[title_of(row["dataset"])] = f"{' and '.join(how)}{when}"
    if not found:
        return ""
    each = ", those of ".join(f"{dataset} are {how}" for dataset, how in found.items())
    return f"Training images of {each}, which those of the published runs were not. "


def _sparsest(rows: Sequence[Row]) -> list[str]:
    """Return, for each level of accuracy, the row that reaches it with the fewest parameters.

    Of rows with equally many it is the most accurate one.
    """
    lines = []
    for dataset in dict.fromkeys(row["dataset"] for row in rows):
        for level in LEVELS.get(dataset, ()):
            there = [r for r in rows if r["dataset"] == dataset and _accuracy(r) >= level]
            reached = "none of these rows"
            if there:
                row = min(there, key=lambda row: (max(row["nonzeros"]), -_accuracy(row)))
                reached = (
                    f"{max(row['nonzeros']):,} parameters ({1 - max(row['density']):.2%} sparsity) "
                    f"at {_accuracy(row):.2f} % [{row['name']}]"
                )
            lines.append(f"- {dataset}, at least {level:.1f} %: {reached}")
    return ["The sparsest row whose mean test accuracy is", "\n".join(lines)] if lines else []
