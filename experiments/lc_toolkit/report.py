"""The table of the LC toolkit beside ours."""

from __future__ import annotations

import functools
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
    error,
    seed_list,
    summary,
)
from experiments.common.runner import Picture
from experiments.lc_toolkit.config import PUBLISHED, Config
from sparsejax.inspection import figures as pictures

_WAYS = {
    "reference": "reference",
    "quantize_all": "two values for each layer",
    "quantize_first_third": "two values for each of the first and third layers",
    "prune_5pct": "13,310 weights (5 %)",
    "quantize_plus_1pct": "two values for all layers, plus 2,662 weights (1 %)",
    "prune_lowrank_quantize": "5,000 weights; rank 10; two values",
    "rank_selection": "ranks chosen for storage, alpha 1e-6",
    "ternary_all": "-a, 0, a for each layer",
    "binary_all": "-a, a for each layer",
}
_FIELDS = ("storage_bits", "compression_ratio", "ranks", "seconds")


def rows(config: Config, ended: Mapping[str, Sequence[Any]], command: str) -> list[Row]:
    """The rows of report.json; test errors are computed for ``--final`` alone."""
    del command
    found = []
    for name in (name for name in config.rows() if name in ended):
        results = [run.result() for run in ended[name]]
        published = {"test_error": PUBLISHED[name]} if name in PUBLISHED else {}
        row = describe(config, name, results, method=name, published=published)
        if config.final:
            row["test_error"] = summary([run.test_error() for run in ended[name]])
        found.append(row | aggregate(results, _FIELDS, ("validation_error",)))
    return found


def _published(row: Row) -> str:
    return f"{row['published']['test_error']:.2f} %" if row["published"] else "(none)"


def _test_error(row: Row) -> str:
    return error(row["test_error"]) if "test_error" in row else "(not looked at)"


def _ranks(row: Row) -> str:
    """The largest rank of each layer over the seeds."""
    if not row["ranks"][0]:
        return ""
    return "-".join(str(max(ranks)) for ranks in zip(*row["ranks"], strict=True))


_COLUMNS: Columns = (
    ("row", lambda row: f"{_WAYS[row['name']]} [{row['name']}]"),
    ("published test error", _published),
    ("ours: test error", _test_error),
    ("validation error", lambda row: error(row["validation_error"])),
    ("compression ratio", lambda row: f"{min(row['compression_ratio']):.1f}"),
    ("ranks", _ranks),
    ("seconds per run", lambda row: f"{sum(row['seconds']) / len(row['seconds']):.0f}"),
)


def parts(rows: Sequence[Row]) -> Parts:
    """The report."""
    return [
        "# LeNet300 on MNIST, compressed in the ways of the LC toolkit",
        Table(_COLUMNS, rows),
        "Errors in per cent at the end of training, mean ± sample standard deviation over seeds "
        f"{seed_list(rows)}. Settings were chosen on the validation split, 5,000 images "
        "held out of the training set; no test error was computed before they were frozen "
        "(`--final`). The compression ratio is that of float32 parameters to what "
        "`sparsejax.inspection.storage_bits` counts, biases included; the lowest of the seeds, as "
        "the ranks are the highest. Published: the examples of the LC toolkit of Idelbayev and "
        "Carreira-Perpiñán, whose reference is another network than ours; its text states 2.51 % "
        "for [prune_lowrank_quantize], its table 2.13 %.",
        MadeBy(),
        FigureFile("Error and distance along the LC steps", "curves.png"),
    ]


def figures(rows: Sequence[Row], ended: Mapping[str, Sequence[Any]]) -> dict[str, Picture]:
    """Curves of all seeds."""
    del rows
    series = {
        name: [run.metrics() for run in runs] for name, runs in ended.items() if name != "reference"
    }
    if not series:
        return {}
    draw = functools.partial(pictures.plot_learning_compression, series=series)
    return {"curves.png": draw}
