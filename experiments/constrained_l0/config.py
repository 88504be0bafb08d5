"""The flags of the experiment, its presets, each row's settings, and the published table."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

from experiments.common.networks import LENET5_PARAMETERS
from experiments.common.runner import Config as CommonConfig

Row = Literal[
    "mlp_33", "mlp_layerwise_30", "mlp_penalized", "lenet5_10", "lenet5_penalized",
    "controllability", "mlp_33_restarts", "mlp_33_ascent", "mlp_33_published", "bisection",
]  # fmt: skip
ROWS: tuple[Row, ...] = get_args(Row)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The lengths that a preset fixes."""

    epochs: int
    controllability_epochs: int
    """Epochs of each run of the row controllability, of which there are five for each seed."""
    checkpoint_epochs: int
    bisection_runs: int
    """The most penalised runs in search of one density."""


PRESETS = {
    "smoke": Schedule(epochs=3, controllability_epochs=3, checkpoint_epochs=1, bisection_runs=2),
    "quick": Schedule(
        epochs=40, controllability_epochs=40, checkpoint_epochs=10, bisection_runs=12
    ),
    "paper": Schedule(
        epochs=200, controllability_epochs=100, checkpoint_epochs=20, bisection_runs=12
    ),
}

# Shared by every row; results/constrained_l0/tuning.md has the search for ours.
_SHARED: Mapping[str, Any] = {
    "batch_size": 128,
    "initialisation": "fan_out",
    "learning_rate": 7e-4,
    "weight_decay": 0.1,
    "gate_learning_rate": 2e-3,
    "rate_decay": "cosine",
    "log_alpha_low": -7.0,
    "log_alpha_high": 1.4,
    "dual": "nupi",
    "dual_rate": 0.1,
    "proportional_gain": 300.0,
    "anneal_fraction": 0.5,
    "margin": 1e-3,
}
_MLP = {"network": "mlp", "first_drop_rate": 0.2, "drop_rate": 0.5}
_LENET5 = {
    "network": "lenet5", "first_drop_rate": 0.5, "drop_rate": 0.5, "gate_learning_rate": 3e-3,
    "log_alpha_high": [2.0, 2.0, 2.0, 0.7], "anneal_fraction": 0.6,
}  # fmt: skip
# The published defaults on MNIST: constant rates, log alpha in the code's range, dual ascent with
# restarts at a rate of 1e-4 and nothing that eases the multiplier.
_PUBLISHED_WAY = {
    "initialisation": "published", "weight_decay": 0.0, "gate_learning_rate": 7e-4,
    "rate_decay": "none", "log_alpha_low": -4.6, "log_alpha_high": 4.6, "dual": "restarts",
    "dual_rate": 1e-4, "proportional_gain": 0.0, "anneal_fraction": 0.0, "margin": 0.0,
}  # fmt: skip
# The same with ten times the dual rate and our initialisation, which only differs in the biases:
# so were the rows made that compare ways of moving the multiplier.
_FASTER_DUAL = _PUBLISHED_WAY | {"initialisation": "fan_out", "dual_rate": 1e-3}
# lambda = 0.1 / N on each expected parameter, N = 60,000 images; here per unit of density.
_FIXED = {"dual": "fixed", "anneal_fraction": 0.0, "margin": 0.0}

DEFAULTS: Mapping[Row, dict[str, Any]] = {
    "mlp_33": _MLP | {"target": 0.33},
    "mlp_layerwise_30": _MLP
    | {
        "target": [0.3, 0.3, 0.3],
        "log_alpha_low": -4.6,
        "log_alpha_high": 2.5,
    },
    "mlp_penalized": _MLP | _FIXED | {"penalty": 0.1 / 60_000 * 266_610},
    "lenet5_10": _LENET5 | {"target": 0.1},
    "lenet5_penalized": _LENET5 | _FIXED | {"penalty": 0.1 / 60_000 * LENET5_PARAMETERS},
    "controllability": _MLP | {"target": 0.2},
    "mlp_33_restarts": _MLP | _FASTER_DUAL | {"target": 0.33, "dual": "restarts"},
    "mlp_33_ascent": _MLP | _FASTER_DUAL | {"target": 0.33, "dual": "ascent"},
    "mlp_33_published": _MLP | _PUBLISHED_WAY | {"target": 0.33},
    "bisection": _MLP | _FIXED | {"penalty": 1.0},
}
ONE_SEED: tuple[Row, ...] = ("mlp_33_restarts", "mlp_33_ascent", "bisection")
"""Rows that show one run's course: they take the first seed alone."""

CONTROLLED = (0.2, 0.35, 0.5, 0.65, 0.8)
"""The targets of the row ``controllability``."""

SOUGHT = {"target": 0.33, "tolerance": 0.01, "lowest": 0.01, "highest": 10.0}
"""What the penalised runs of the row ``bisection`` look for, and between which penalties."""

_MLP_33 = {
    "architecture": [198, 233, 100], "best_test_error": 1.4, "saved_runs": {
        "test_error": 1.77, "best_test_error": 1.36, "expected_density": 0.342, "density": 0.266,
        "macs_share": 0.267,
    },
}  # fmt: skip
PUBLISHED: Mapping[str, dict[str, Any]] = {
    "mlp_33": _MLP_33,
    "mlp_layerwise_30": {
        "test_error": 2.19, "best_test_error": 1.58, "density": 0.076, "saved_runs": {
            "test_error": 2.19, "best_test_error": 1.58, "expected_density": 0.309,
            "density": 0.076, "macs_share": 0.076,
        },
    },
    "mlp_penalized": {"architecture": [219, 214, 100], "best_test_error": 1.4},
    "lenet5_10": {
        "architecture": [20, 21, 34, 407], "best_test_error": 0.53, "saved_runs": {
            "test_error": 1.01, "best_test_error": 0.56, "expected_density": 0.122,
            "density": 0.077, "macs_share": 0.465,
        },
    },
    "lenet5_penalized": {"architecture": [20, 25, 45, 462], "best_test_error": 0.9},
    "controllability": {"density_within": 0.01},
    "mlp_33_published": _MLP_33,
}  # fmt: skip
"""The poster's table (Gallego-Posada, Ramirez and Erraqabi), with the means of the authors' saved
runs where they differ from it (those by layer are of the saved runs alone); the best errors are the
lowest of any seed and epoch; the penalised rows are of Louizos et al. (ICLR 2018). Shares of
multiply-accumulates count biases, ReLU and pooling too."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(CommonConfig):
    """Sparse MLP and LeNet5 on MNIST by constrained L0 regularisation."""

    experiment = "constrained_l0"

    row: tuple[Literal["all"] | Row, ...] = ("all",)
    """Rows of the table to make."""
    preset: Literal["smoke", "quick", "paper"] = "quick"
    """How long: smoke (3 epochs), quick (40), paper (200, as published; controllability: 100)."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One run for each (of rows that show one run's course: the first)."""
    epochs: int | None = None
    """Epochs of a run; default the preset's."""
    target: tuple[float, ...] | None = None
    """Densities in place of the rows': one for the whole network, or one for each layer. For the
    row controllability: the densities to try."""
    penalty: float | None = None
    """Weight of the expected density in the penalised rows."""
    initialisation: Literal["fan_out", "published"] | None = None
    """Initial kernels and biases: normal of variance 2 / fan-out, biases zero; or as in the
    published code, where convolutions go by their fan-in and biases are random."""
    learning_rate: float | None = None
    """Learning rate of Adam for the weights."""
    weight_decay: float | None = None
    """Decoupled decay of the kernels (AdamW); the published runs have none."""
    gate_learning_rate: float | None = None
    """Learning rate of Adam for log alpha."""
    rate_decay: Literal["cosine", "none"] | None = None
    """Decay of both learning rates to 0 over the run."""
    first_drop_rate: float | None = None
    """Initial share of closed gates in the first layer."""
    drop_rate: float | None = None
    """Initial share of closed gates in the other layers."""
    log_alpha_low: tuple[float, ...] | None = None
    """Lower end of the range that log alpha is clipped to: one for all layers, or one for each."""
    log_alpha_high: tuple[float, ...] | None = None
    """Upper end of that range; the lower it is, the more noise open gates keep."""
    dual: Literal["nupi", "ascent", "restarts"] | None = None
    """Dual optimizer of the constrained rows: nuPI, or ascent without or with restarts."""
    dual_rate: float | None = None
    """Learning rate of the ascent, or integral gain of nuPI."""
    proportional_gain: float | None = None
    """Proportional gain of nuPI."""
    anneal_fraction: float | None = None
    """Share of the run over which the bound on the density falls from 1 to the target; 0: none."""
    margin: float | None = None
    """Distance below the target that the density is pushed to."""
    batch_size: int | None = None
    """Images a step."""
    whole_training_set: bool = False
    """Train on all 60,000 images, as published; the validation images are then among them."""

    def rows(self) -> tuple[Row, ...]:
        """The rows asked for, in the table's order."""
        return tuple(row for row in ROWS if "all" in self.row or row in self.row)

    def settings(self, row: Row, **varied: Any) -> dict[str, Any]:
        """Return the settings of a run of ``row``: the row's, the flags', then ``varied``."""
        defaults = {**_SHARED, **DEFAULTS[row]}
        chosen = self.overridden(defaults)
        for name, value in chosen.items():
            if isinstance(value, tuple):
                chosen[name] = value[0] if len(value) == 1 else list(value)
        if defaults["dual"] == "fixed":
            chosen["dual"] = "fixed"
        schedule = PRESETS[self.preset]
        epochs = schedule.epochs
        if row == "controllability":
            epochs = schedule.controllability_epochs
        return (
            {"row": row, "epochs": self.epochs or epochs}
            | {"checkpoint_epochs": schedule.checkpoint_epochs}
            | {"whole_training_set": self.whole_training_set}
            | chosen
            | varied
        )

    def seeds_of(self, row: Row) -> tuple[int, ...]:
        """The seeds of a row's runs."""
        return self.seeds[:1] if row in ONE_SEED else self.seeds

    def controlled(self) -> tuple[float, ...]:
        """The targets of the row ``controllability``."""
        return self.target or CONTROLLED

    def check(self) -> None:
        """See `experiments.common.runner.Config`."""
        self.require(
            "positive",
            lambda x: x > 0,
            "learning_rate", "gate_learning_rate", "batch_size", "epochs",
        )  # fmt: skip
        self.require("finite and >= 0", lambda x: 0 <= x < math.inf, "penalty")
        self.require("in [0, 1]", lambda x: 0 <= x <= 1, "anneal_fraction")
