"""The table of the paper beside ours, and the figures."""

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
)
from experiments.common.runner import Picture, Run
from experiments.lc_lenet300.config import PUBLISHED, ROWS, Config, is_reference
from sparsejax.inspection import figures as pictures
from sparsejax.models import LENET300_LAYERS

_TITLES = {
    "reference": "reference, ReLU",
    "reference_tanh": "reference, tanh",
    "l0": "l0",
    "l1": "l1",
    "l0_l2": "l0 + l2",
    "l0_l2_relu": "l0 + l2",
    "l0_l2_1pct": "l0 + l2 at 1 %",
}
_FIELDS = ("nonzeros", "density", "layer_nonzeros", "live_units", "bzip2_bytes", "seconds")


def rows(config: Config, ended: Mapping[str, Sequence[Run]], command: str) -> list[Row]:
    """The rows of report.json: one for each method."""
    del command
    found = []
    for name in (name for name in config.rows() if name in ended):
        results = [run.result() for run in ended[name]]
        about = describe(config, name, results, method=name, published=PUBLISHED.get(name, {}))
        found.append(about | aggregate(results, _FIELDS))
    return found


def _units(counts: Sequence[int]) -> str:
    return "-".join(map(str, counts))


def _published_units(row: Row) -> str:
    return _units(row["published"]["live_units"]) if row["published"] else "(none)"


_COLUMNS: Columns = (
    ("row", lambda row: f"{_TITLES[row['name']]} [{row['name']}]"),
    ("activation", lambda row: row["settings"]["activation"]),
    (
        "published test error",
        lambda row: f"{row['published']['test_error']:.2f} %" if row["published"] else "(none)",
    ),
    ("ours: test error", lambda row: error(row["test_error"])),
    ("validation error", lambda row: f"{row['validation_error']['mean']:.2f} %"),
    (
        "non-zero weights",
        lambda row: f"{max(row['nonzeros']):,} ({100 * max(row['density']):.2f} %)",
    ),
    ("published live units", _published_units),
    (
        "ours: live units (maximum over seeds)",
        lambda row: _units([max(units) for units in zip(*row["live_units"], strict=True)]),
    ),
    ("seconds per run", lambda row: f"{sum(row['seconds']) / len(row['seconds']):.0f}"),
)
_SIZES: Columns = (
    ("row", lambda row: f"[{row['name']}]"),
    (
        "non-zero weights of the three layers (first seed)",
        lambda row: " + ".join(f"{count:,}" for count in row["layer_nonzeros"][0]),
    ),
    ("bytes after BZIP2 (float32, biases too)", lambda row: f"{row['bzip2_bytes'][0]:,}"),
)


def _blindness(rows: Sequence[Row]) -> str:
    if all(row["settings"].get("validation_fold") for row in rows):
        return (
            "It is another one than that on which the settings were chosen, the seeds are new, and "
            "the settings were not touched: a blind repeat."
        )
    return (
        "Test errors were visible while the settings were searched for, so they are not blind "
        "estimates."
    )


def parts(rows: Sequence[Row]) -> Parts:
    """The report."""
    return [
        "# LeNet300 on MNIST, compressed by learning-compression",
        Table(_COLUMNS, rows),
        "Errors in per cent at the end of training, mean ± sample standard deviation over seeds "
        f"{seed_list(rows)}. The validation split is 5,000 images held out of the "
        f"training set, never trained on. {_blindness(rows)} Published: Idelbayev and "
        "Carreira-Perpiñán, ICASSP 2022.",
        MadeBy(),
        Table(_SIZES, rows, on_screen=False),
        FigureFile("Error and distance along the LC steps", "curves.png"),
        FigureFile("Input pixels that survive", "pixels.png"),
        FigureFile("Weights of each layer before and after", "connectivity.png"),
    ]


def figures(rows: Sequence[Row], ended: Mapping[str, Sequence[Run]]) -> dict[str, Picture]:
    """The networks of the first seed, one dense reference among them, and curves of all seeds."""
    del rows
    if not ended:
        return {}
    names = [name for name in ROWS if name in ended]
    shown = [name for name in names if name != "reference_tanh" or "reference" not in names]
    networks: dict[str, Any] = {name: ended[name][0].network() for name in shown}
    curves: dict[str, Any] = {
        name: [run.metrics() for run in ended[name]] for name in names if not is_reference(name)
    }
    drawn: dict[str, Picture] = {
        "pixels.png": functools.partial(
            pictures.plot_pixel_maps, networks=networks, layers=LENET300_LAYERS, shape=(28, 28)
        ),
        "connectivity.png": functools.partial(
            pictures.plot_connectivity, networks=networks, layers=LENET300_LAYERS
        ),
    }
    if curves:
        drawn["curves.png"] = functools.partial(pictures.plot_learning_compression, series=curves)
    return drawn
