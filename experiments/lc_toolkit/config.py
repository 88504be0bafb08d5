"""The flags of the experiment, its presets, each row's settings, and the published table."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, get_args

from experiments.common.lenet300 import Config as CommonConfig

Row = Literal[
    "reference", "quantize_all", "quantize_first_third", "prune_5pct", "quantize_plus_1pct",
    "prune_lowrank_quantize", "rank_selection", "ternary_all", "binary_all",
]  # fmt: skip
ROWS: tuple[Row, ...] = get_args(Row)

PRESETS: Mapping[str, dict[str, int]] = {
    "smoke": {
        "reference_epochs": 1, "l_steps": 3, "epochs_per_l_step": 1, "first_l_step_epochs": 1,
        "cooldown_l_steps": 1, "checkpoint_epochs": 1,
    },
    "quick": {
        "reference_epochs": 40, "l_steps": 40, "epochs_per_l_step": 5, "first_l_step_epochs": 10,
        "cooldown_l_steps": 12, "checkpoint_epochs": 10,
    },
    "paper": {
        "reference_epochs": 100, "l_steps": 40, "epochs_per_l_step": 20, "first_l_step_epochs": 40,
        "cooldown_l_steps": 12, "checkpoint_epochs": 20,
    },
}  # fmt: skip

# Chosen on the validation images alone; see results/lc_toolkit/tuning.md.
_FEW_VALUES = {"learning_rate": 0.1, "mu": 9e-5, "mu_growth": 1.2, "decay": 0.0}
_FEW_WEIGHTS = {"learning_rate": 0.3, "mu": 9e-5, "mu_growth": 1.1, "decay": 1e-4}
_MIXED = {"learning_rate": 0.2, "mu": 9e-5, "mu_growth": 1.2, "decay": 1e-4}
DEFAULTS: Mapping[str, dict[str, float]] = {
    "reference": {"learning_rate": 0.1},
    "quantize_all": _FEW_VALUES,
    "quantize_first_third": _MIXED,
    "prune_5pct": _FEW_WEIGHTS,
    "quantize_plus_1pct": _FEW_VALUES,
    "prune_lowrank_quantize": _MIXED,
    "rank_selection": _FEW_WEIGHTS,
    "ternary_all": _FEW_VALUES,
    "binary_all": _FEW_VALUES,
}

PUBLISHED: Mapping[str, float] = {
    "reference": 2.13,
    "quantize_all": 2.56,
    "quantize_first_third": 2.26,
    "prune_5pct": 2.18,
    "quantize_plus_1pct": 2.17,
    "prune_lowrank_quantize": 2.13,
    "rank_selection": 1.90,
}
"""Test errors in per cent of the examples of the LC toolkit (Idelbayev and Carreira-Perpinan);
ternary and binary weights are not in its table."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(CommonConfig):
    """LeNet300 on MNIST, compressed in every way of the LC toolkit's table."""

    experiment = "lc_toolkit"

    row: tuple[Literal["all"] | Row, ...] = ("all",)
    """Rows of the table to make; the dense reference they start from is trained where missing."""
    preset: Literal["smoke", "quick", "paper"] = "quick"
    """How long: smoke (3 epochs), quick (205), paper (820, the published schedule)."""
    final: bool = False
    """Evaluate the test images, too. Without it no test error is computed, so that settings can be
    chosen by the validation images alone."""
    activation: Literal["relu", "tanh"] = "tanh"
    """Activation of the hidden units."""

    def rows(self) -> tuple[Row, ...]:
        """The rows asked for, in the table's order."""
        return tuple(row for row in ROWS if "all" in self.row or row in self.row)

    def settings(self, row: Row) -> dict[str, Any]:
        """Return the settings of a run of ``row``, as JSON values: the row's, then the flags'."""
        preset = dict(PRESETS[self.preset])
        shared = {
            "row": row,
            "preset": self.preset,
            "activation": self.activation,
            "batch_size": self.batch_size,
            "validation_fold": self.validation_fold,
        }
        if row == "reference":
            return shared | DEFAULTS[row] | {"reference_epochs": preset["reference_epochs"]}
        chosen = self.overridden(DEFAULTS[row]) | {"formulation": "l_step"}
        return shared | preset | self.l_step_flags() | chosen
