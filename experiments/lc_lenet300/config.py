"""The flags of the experiment, its presets, and the published table."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

Row = Literal["reference", "l0", "l1", "l0_l2", "l0_l2_1pct"]
ROWS: tuple[Row, ...] = ("reference", "l0", "l1", "l0_l2", "l0_l2_1pct")
KERNEL_WEIGHTS = 266_200


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How long and how fast: what a preset fixes."""

    reference_epochs: int
    l_steps: int
    epochs_per_l_step: int
    first_l_step_epochs: int
    checkpoint_epochs: int
    mu: float
    mu_growth: float


PRESETS = {
    "smoke": Schedule(
        reference_epochs=2,
        l_steps=8,
        epochs_per_l_step=1,
        first_l_step_epochs=1,
        checkpoint_epochs=1,
        mu=1e-3,
        mu_growth=1.5,
    ),
    "quick": Schedule(
        reference_epochs=30,
        l_steps=40,
        epochs_per_l_step=5,
        first_l_step_epochs=5,
        checkpoint_epochs=10,
        mu=9e-5,
        mu_growth=1.1,
    ),
    "paper": Schedule(
        reference_epochs=100,
        l_steps=40,
        epochs_per_l_step=20,
        first_l_step_epochs=40,
        checkpoint_epochs=20,
        mu=9e-5,
        mu_growth=1.1,
    ),
}

PUBLISHED: Mapping[str, dict[str, Any]] = {
    "reference": {"test_error": 2.01, "density": 1.0, "live_units": [784, 300, 100, 10]},
    "l0": {"test_error": 2.33, "density": 0.02, "live_units": [344, 210, 100, 10]},
    "l1": {"test_error": 2.44, "density": 0.024, "live_units": [476, 37, 84, 10]},
    "l0_l2": {"test_error": 1.769, "density": 0.02, "live_units": [420, 70, 82, 10]},
    "l0_l2_1pct": {},
}
"""The table of Idelbayev and Carreira-Perpinan (ICASSP 2022); the paper has no row at 1 %."""


@dataclasses.dataclass(frozen=True)
class Config:
    """LeNet300 on MNIST, compressed by learning-compression."""

    method: Annotated[
        tuple[Literal["all", "reference", "l0", "l1", "l0_l2", "l0_l2_1pct"], ...],
        tyro.conf.arg(aliases=["--methods"]),
    ] = ("all",)
    """Rows of the table to make; the dense reference they start from is trained where missing."""
    preset: Literal["smoke", "quick", "paper"] = "quick"
    """How long: smoke (8 epochs), quick (200), paper (820, the published schedule)."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One run of every method for each."""
    kappa: int | None = None
    """Weights kept by the l0 methods; default 5,324 (2 %), and 2,662 for l0_l2_1pct."""
    decay: float | None = None
    """lambda of the l2 penalty of the l0_l2 methods."""
    alpha: float | None = None
    """The price of the l1 method."""
    formulation: Literal["c_step", "l_step"] = "c_step"
    """Where the l2 penalty of the l0_l2 methods acts: on theta (version 1) or on w (version 2)."""
    multipliers: bool = True
    """Augmented Lagrangian, or (--no-multipliers) the quadratic penalty."""
    activation: Literal["relu", "tanh"] = "relu"
    """Of the hidden units."""
    mu: float | None = None
    """The penalty's weight in the first L step; default the preset's."""
    mu_growth: float | None = None
    """Its growth from one L step to the next; default the preset's."""
    learning_rate: float = 0.2
    """Of SGD with Nesterov momentum 0.9, in the first L step."""
    learning_rate_decay: float = 0.98
    """Its decay from one L step to the next."""
    reference_learning_rate: float = 0.1
    """Of the reference, at the start of its cosine schedule."""
    batch_size: int = 256
    """Images a step."""
    output: Path = Path("runs/lc_lenet300")
    """Folder of the runs: configuration, metrics, checkpoints, networks."""
    results: Path | None = None
    """Folder of the report and the figures; default OUTPUT/results."""
    data_dir: Path | None = None
    """Folder of the datasets; default $SPARSEJAX_DATA_DIR, else the user's cache folder."""
    resume: bool = False
    """Continue what is already in OUTPUT; runs that ended are not run again."""

    def rows(self) -> tuple[Row, ...]:
        """The rows asked for, in the table's order."""
        return tuple(row for row in ROWS if "all" in self.method or row in self.method)

    def schedule(self) -> Schedule:
        """The preset's, with the flags that override it."""
        preset = PRESETS[self.preset]
        return dataclasses.replace(
            preset, mu=_or(self.mu, preset.mu), mu_growth=_or(self.mu_growth, preset.mu_growth)
        )

    def row_settings(self, row: Row) -> dict[str, Any]:
        """What defines a run of ``row``, as JSON values: it names the run's folder owner."""
        settings: dict[str, Any] = {
            "row": row,
            "preset": self.preset,
            "activation": self.activation,
            "batch_size": self.batch_size,
            "reference_learning_rate": self.reference_learning_rate,
            "reference_epochs": self.schedule().reference_epochs,
        }
        if row == "reference":
            return settings
        settings |= {
            "multipliers": self.multipliers,
            **dataclasses.asdict(self.schedule()),
            "learning_rate": self.learning_rate,
            "learning_rate_decay": self.learning_rate_decay,
        }
        if row == "l1":
            return settings | {"alpha": _or(self.alpha, L1_ALPHA)}
        settings["kappa"] = _or(self.kappa, KERNEL_WEIGHTS // (100 if row == "l0_l2_1pct" else 50))
        if row != "l0":
            default = L0_L2_1PCT_DECAY if row == "l0_l2_1pct" else L0_L2_DECAY
            settings |= {"decay": _or(self.decay, default), "formulation": self.formulation}
        return settings


# Chosen on the validation split; BUILD_NOTES.md has the search.
L1_ALPHA = 2e-5
L0_L2_DECAY = 1e-4
L0_L2_1PCT_DECAY = 5e-5


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value
