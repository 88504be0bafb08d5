"""The flags of the experiment, its presets, each row's settings, and the published tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

Row = Literal["mnist", "fashion_mnist"]
ROWS: tuple[Row, ...] = ("mnist", "fashion_mnist")
PARAMETERS = 431_080


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How long: what a preset fixes for a row."""

    start_epochs: int
    """Without regularisation, before it begins; 0: from a random initialisation."""
    prune_epochs: int
    finetune_epochs: int


PRESETS: Mapping[str, Mapping[Row, Schedule]] = {
    "smoke": {"mnist": Schedule(0, 2, 1), "fashion_mnist": Schedule(1, 2, 1)},
    "quick": {"mnist": Schedule(0, 40, 5), "fashion_mnist": Schedule(8, 27, 15)},
    "paper": {"mnist": Schedule(0, 120, 5), "fashion_mnist": Schedule(24, 81, 50)},
}

DEFAULTS: Mapping[Row, dict[str, Any]] = {
    "mnist": {"lower_bound": 0.987},
    "fashion_mnist": {"lower_bound": 0.897},
}
_SHARED: Mapping[str, Any] = {
    "batch_size": 100,
    "learning_rate": 1e-3,
    "finetune_rate": 1e-3,
    "decay": 1e-3,
    "decay_rate": 0.9,
    "fraction": 0.04,
    "eval_interval": 250,
    "patience": 0,
}

PUBLISHED: Mapping[Row, dict[str, Any]] = {
    "mnist": {
        "test_error": 0.78, "density": 0.003, "layer_density": [0.30, 0.02, 0.001, 0.038],
        "bzip2_megabytes": 0.07,
    },
    "fashion_mnist": {
        "test_error": 8.33, "density": 0.031, "layer_density": [0.789, 0.1885, 0.0152, 0.067],
        "bzip2_megabytes": 0.10,
    },
}  # fmt: skip
"""Tables 1, 3 and 4 of Bonetta and Cancelliere (ESANN 2022)."""


@dataclasses.dataclass(frozen=True)
class Config:
    """LeNet5 pruned by gated weight decay while its validation accuracy holds."""

    dataset: tuple[Literal["all"] | Row, ...] = ("all",)
    """What to train on: a row of the table each."""
    preset: Literal["smoke", "quick", "paper"] = "quick"
    """How long: smoke (3 epochs), quick (a third), paper (mnist 120 + 5, fashion 24 + 81 + 50)."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One run of every row for each."""
    lower_bound: float | None = None
    """Validation accuracy, in [0, 1], above which weights are pruned; default the row's."""
    fraction: float | None = None
    """Share of the surviving weights that a pruning takes, in (0, 1)."""
    eval_interval: int | None = None
    """Steps between assessments."""
    patience: int | None = None
    """Assessments in a row that prune nothing after which pruning ends; 0: never before its
    epochs are over."""
    decay: float | None = None
    """lambda right after a pruning."""
    decay_rate: float | None = None
    """Its fall from one assessment to the next, until weights are pruned again."""
    learning_rate: float | None = None
    """Of Adam, before the fine-tuning."""
    finetune_rate: float | None = None
    """At the start of the fine-tuning, from where it falls to 0 with a cosine."""
    batch_size: int | None = None
    """Images a step."""
    output: Path = Path("runs/gated_decay")
    """Folder of the runs: configuration, metrics, checkpoints, networks."""
    results: Path | None = None
    """Folder of the report and the figures; default OUTPUT/results."""
    data_dir: Path | None = None
    """Folder of the datasets; default $SPARSEJAX_DATA_DIR, else the user's cache folder."""
    resume: bool = False
    """Continue what is already in OUTPUT; runs that ended are not run again."""

    def rows(self) -> tuple[Row, ...]:
        """The rows asked for, in the table's order."""
        return tuple(row for row in ROWS if "all" in self.dataset or row in self.dataset)

    def settings(self, row: Row) -> dict[str, Any]:
        """What defines a run of ``row``, as JSON values: the row's, overridden by the flags."""
        chosen = dict(_SHARED) | DEFAULTS[row]
        for name in chosen:
            given = getattr(self, name)
            if given is not None:
                chosen[name] = given
        return {"row": row} | dataclasses.asdict(PRESETS[self.preset][row]) | chosen


def check(config: Config) -> None:
    """Raise ValueError where a flag is out of its range; the library checks the others."""
    for name in ("learning_rate", "finetune_rate", "batch_size", "eval_interval"):
        given = getattr(config, name)
        if given is not None and not given > 0:
            raise ValueError(f"--{name.replace('_', '-')} must be positive; got {given}")
    if config.decay_rate is not None and not 0 < config.decay_rate <= 1:
        raise ValueError(f"--decay-rate must be in (0, 1]; got {config.decay_rate}")
    if config.patience is not None and config.patience < 0:
        raise ValueError(f"--patience must be >= 0; got {config.patience}")
