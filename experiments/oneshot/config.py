"""The flags of the experiment, its rows and the settings that it tries for each."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from experiments.common.runner import AddingConfig

Row = Literal[
    "dense", "magnitude_50", "wanda_50", "sparsegpt_50", "admm_50",
    "sparsegpt_50_at_once", "admm_50_at_once", "swaps_50", "global_50",
    "wanda_2_4", "sparsegpt_2_4", "admm_2_4",
    "wanda_structured", "sparsegpt_structured", "structured_tuned",
    "dense_tuned", "dense_tuned_twice", "dense_tuned_thrice", "dense_tuned_longer",
    "lc_50", "lc_70",
    "admm_50_file", "lc_50_file",
]  # fmt: skip
ROWS: tuple[Row, ...] = get_args(Row)

TUNING_DRAW = 100
"""The draw of calibration windows with which settings are chosen; no reported run has it."""


class OneShot(NamedTuple):
    """A row that prunes without training."""

    method: str
    """A function of `sparsejax.oneshot` that makes a method."""
    sparsity: float
    candidates: Sequence[Mapping[str, Any]]
    """Settings of which the best by validation perplexity is taken: ``pattern``, ``comparison``,
    ``sequential``, and options of the method. A single one is not tried."""
    first_look: float | None = None
    """The perplexity ratio of a first look: plain NumPy, 10 windows, 4,096 test tokens."""


class Trained(NamedTuple):
    """A row that trains: learning-compression from a one-shot start, or the dense network."""

    sparsity: float
    start: Row | None
    """The one-shot row whose method, with the first settings of that row, prunes the network
    first."""
    candidates: Sequence[Mapping[str, float]]
    """Settings of which the best by validation perplexity after a short training is taken; a single
    one is not tried. ``rate`` is the learning rate of Adam, which falls to 0 along a cosine; ``mu``
    is the penalty's weight in the first L step, and ``mu_growth`` what it grows by in each."""
    source: Row | None = None
    """The row before it that trains and whose network takes the place of the pretrained one. A
    sparse row prunes it and learns the outputs of the last dense network before it, a dense one
    goes on with the texts. Such a row has one candidate, since others would be tried before the
    source is there."""
    times: int = 1
    """How many times the preset's steps it trains."""


STRUCTURED = "structured"
"""The pattern of rows without a quarter of the hidden units and one of three groups of heads."""

ONE_SHOT: Mapping[str, OneShot] = {
    "magnitude_50": OneShot("magnitude", 0.5, [{"pattern": "layer"}], 14.5),
    "wanda_50": OneShot(
        "wanda",
        0.5,
        [
            {"pattern": "row"},
            {"pattern": "layer"},
            {"pattern": "row", "sequential": True},
            {"pattern": "global", "comparison": "loss"},
        ],
        2.09,
    ),
    "sparsegpt_50": OneShot(
        "sparsegpt", 0.5, [{"pattern": "layer"}, {"pattern": "layer", "sequential": True}], 2.06
    ),
    "admm_50": OneShot(
        "admm",
        0.5,
        [{"pattern": "layer"}, {"pattern": "row"}, {"pattern": "layer", "sequential": True}],
        1.80,
    ),
    # The first settings of the two rows before, for those who want it soon: the best ones calibrate
    # each layer again. Half of ADMM's iterations cost little.
    "sparsegpt_50_at_once": OneShot("sparsegpt", 0.5, [{"pattern": "layer"}], 2.06),
    "admm_50_at_once": OneShot("admm", 0.5, [{"pattern": "layer", "iterations": 20}], 1.80),
    "swaps_50": OneShot("swaps", 0.5, [{"pattern": "row"}]),
    "global_50": OneShot(
        "admm",
        0.5,
        [
            {"pattern": "global", "comparison": comparison}
            for comparison in ("loss", "balanced", "relative", "absolute")
        ],
    ),
    "wanda_2_4": OneShot("wanda", 0.5, [{"pattern": "2:4"}], 6.2),
    "sparsegpt_2_4": OneShot("sparsegpt", 0.5, [{"pattern": "2:4"}]),
    "admm_2_4": OneShot("admm", 0.5, [{"pattern": "2:4"}]),
    "wanda_structured": OneShot("wanda", 0.0, [{"pattern": STRUCTURED}]),
    "sparsegpt_structured": OneShot("sparsegpt", 0.0, [{"pattern": STRUCTURED}]),
}
_LC = {"mu": 0.1, "mu_growth": 1.2}
TRAINED: Mapping[str, Trained] = {
    "structured_tuned": Trained(0.0, "sparsegpt_structured", [{"rate": 1e-4}]),
    "dense_tuned": Trained(0.0, None, [{"rate": rate} for rate in (2e-5, 5e-5, 1e-4)]),
    "dense_tuned_twice": Trained(0.0, None, [{"rate": 1e-4}], "dense_tuned"),
    "dense_tuned_thrice": Trained(0.0, None, [{"rate": 1e-4}], "dense_tuned_twice"),
    "dense_tuned_longer": Trained(0.0, None, [{"rate": 1e-4}], times=3),
    "lc_50": Trained(0.5, "global_50", [{"rate": 1e-4, **_LC}], "dense_tuned"),
    "lc_70": Trained(0.7, "global_50", [{"rate": 1.5e-4, **_LC}], "lc_50", times=3),
}
CANDIDATES: Mapping[str, Sequence[Mapping[str, Any]]] = {
    **{row: one_shot.candidates for row, one_shot in ONE_SHOT.items()},
    **{row: trained.candidates for row, trained in TRAINED.items()},
}
"""The settings that are tried for each row."""
FILES: Mapping[str, Row] = {"admm_50_file": "admm_50", "lc_50_file": "lc_50"}
"""The rows that quantise the network of another row and write it to a file."""


def sources(row: str) -> list[str]:
    """The rows whose training comes before that of ``row``, the last one first.

    A row that writes a file has those of the row whose network it writes; rows that do not train
    have none.
    """
    trained = TRAINED.get(FILES.get(row, row))
    source = None if trained is None else trained.source
    return [] if source is None else [source, *sources(source)]


def teacher(row: str) -> str | None:
    """The last dense row before a sparse one that trains; None where it learns the texts."""
    dense = [source for source in sources(row) if TRAINED[source].start is None]
    return dense[0] if dense and TRAINED[row].start is not None else None


def trained_times(row: str) -> int:
    """How many times the preset's steps a row and its sources train in all."""
    return sum(TRAINED[one].times for one in (row, *sources(row)))


def dense_rows(row: str) -> list[str]:
    """The dense rows that were trained for as long as a row that trains, or less.

    ``row`` and its sources count. The best of them by validation is what it is compared with: more
    training can make the dense network worse.
    """
    return [
        name for name, trained in TRAINED.items()
        if trained.start is None and trained_times(name) <= trained_times(row)
    ]  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(AddingConfig):
    """SmolLM2-135M and dense image networks, pruned by one call and by training from there."""

    experiment = "oneshot"

    row: tuple[Literal["all", "one_shot", "trained", "files"] | Row, ...] = ("one_shot",)
    """Rows of SmolLM2 to make: all, those without or those with training, those that write a file,
    or some; with none, the image networks alone."""
    images: tuple[Path, ...] = ()
    """Folders of finished runs of dense image networks, which are pruned in the same ways."""
    trained: Path | None = None
    """Folder with a report of `experiments.compare`, whose errors of methods that train are shown
    beside those of the image networks."""
    preset: Literal["smoke", "full"] = "full"
    """How much: smoke (4 calibration windows, 4 tested ones, 3 steps of training) or full."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """The draws of calibration windows; rows that train use the first alone. Without a number,
    settings are chosen by the validation texts, and the run stops there."""
    final: bool = False
    """Evaluate the test texts and test images, too. Without it no test number is computed, so that
    settings can be chosen by the validation data alone."""
    context: int = 512
    """Tokens of a window."""
    mixed_precision: bool = False
    """Train with products in bfloat16 and their sums, the parameters and all else in float32; on a
    CPU with instructions for bfloat16 a step takes half the time. This needs a JAX newer
    than 0.10.0."""
    windows: int | None = None
    """Calibration windows of a draw; default the preset's (128)."""
    steps: int | None = None
    """Steps of training; default the preset's. Some rows train for a multiple of it."""
    batch_size: int = 4
    """Windows a step of training."""

    def check(self) -> None:
        """See `experiments.common.runner.Config`."""
        self.require("at least 1", lambda x: x >= 1, "context", "windows", "steps", "batch_size")

    def rows(self) -> tuple[Row, ...]:
        """The rows asked for, in the table's order, with the dense ones that they are compared with
        and that the report which they are added to does not have.
        """
        groups = {
            "one_shot": tuple(ONE_SHOT), "trained": tuple(TRAINED), "files": tuple(FILES),
        }  # fmt: skip
        wanted = {name for row in self.row for name in groups.get(row, (row,))}
        there = {
            row["name"] for row in self.earlier_rows() if "perplexity" in row or not self.final
        }
        wanted |= {FILES[name] for name in wanted & set(FILES)} | {"dense"} - there
        wanted |= {dense for name in wanted & set(TRAINED) for dense in dense_rows(name)} - there
        # A report has no networks, so a source is trained again unless its run is there.
        wanted |= {source for name in wanted & set(TRAINED) for source in sources(name)}
        return tuple(row for row in ROWS if row in wanted or "all" in self.row)

    def sizes(self) -> dict[str, int]:
        """Return the numbers of windows and steps: the preset's, overridden by the flags."""
        smoke = self.preset == "smoke"
        found = {
            "context": self.context,
            "windows": 4 if smoke else 128,
            "gradient_windows": 4 if smoke else 32,
            "validation_windows": 4 if smoke else 32,
            "test_windows": 4 if smoke else 64,
            "steps": 3 if smoke else 200,
            "tuning_steps": 2 if smoke else 30,
            "batch_size": self.batch_size,
        }
        return self.overridden(found)
