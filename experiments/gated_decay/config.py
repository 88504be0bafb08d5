"""Flags, presets, settings of each row, and the published tables."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from experiments.common.networks import LENET5_PARAMETERS
from experiments.common.runner import Config as CommonConfig
from experiments.common.runner import flag_of

Row = Literal["mnist", "fashion_mnist", "imagenet2012"]
ROWS: Mapping[str, tuple[Row, ...]] = {
    "lenet5": ("mnist", "fashion_mnist"), "vgg16": ("imagenet2012",)
}  # fmt: skip
PHASES = ("start", "prune", "compress", "finetune")

PRESETS: Mapping[str, Mapping[Row, tuple[int, int, int, int]]] = {
    "smoke": {
        "mnist": (0, 2, 1, 1), "fashion_mnist": (1, 2, 1, 1), "imagenet2012": (0, 2, 1, 1),
    },
    "quick": {
        "mnist": (0, 40, 5, 10), "fashion_mnist": (8, 27, 5, 15), "imagenet2012": (0, 10, 3, 10),
    },
    "paper": {
        "mnist": (0, 120, 10, 50), "fashion_mnist": (24, 81, 10, 30),
        "imagenet2012": (0, 30, 10, 30),
    },
}  # fmt: skip
"""Epochs of each phase: the start without regularisation, the pruning, the learning-compression (of
rows that have one) and the fine-tuning."""

_SHARED: Mapping[str, Any] = {
    "batch_size": 100, "shift": 1, "mirror": False, "prune_augmented": True,
    "learning_rate": 1e-3, "finetune_rate": 1e-2, "finetune_weight_decay": 0.0,
    "finetune_whole": False, "momentum": 0.0, "decay": 3e-4, "decay_rate": 0.9, "fraction": 0.05,
    "min_weights": 0, "eval_interval": 250, "patience": 0, "mu": 1e-3, "mu_growth": 1.5,
    "l_step_epochs": 1,
}  # fmt: skip
DEFAULTS: Mapping[Row, dict[str, Any]] = {
    "mnist": {"lower_bound": 0.988, "min_weights": 1077, "finetune_whole": True},
    "fashion_mnist": {
        "lower_bound": 0.9, "min_weights": 10_700, "finetune_rate": 3e-3,
        "finetune_weight_decay": 0.03, "mirror": True, "prune_augmented": False,
    },
    "imagenet2012": {
        "learning_rate": 1e-4, "finetune_rate": 1e-4, "momentum": 0.9, "min_weights": 0,
        "decay": 1e-4, "fraction": 0.01, "eval_interval": 2500, "lower_bound": 0.685,
    },
}  # fmt: skip
FROM_DENSE: Mapping[str, Any] = {
    "learning_rate": 0.1, "compress_rate": 0.1, "compress_decay": 1e-4, "mu": 9e-5,
    "mu_growth": 1.1,
}  # fmt: skip
"""What differs where the dense network is compressed."""
FROM_DENSE_EPOCHS: Mapping[str, tuple[int, int]] = {
    "smoke": (1, 2), "quick": (6, 20), "paper": (12, 40),
}  # fmt: skip
"""Epochs of the dense training and of the learning-compression of it."""
KAPPAS: Mapping[Row, tuple[int, ...]] = {"mnist": (862,)}
"""Exact numbers of parameters to compress to: 99.8 % sparsity."""

PUBLISHED: Mapping[Row, dict[str, Any]] = {
    "mnist": {
        "test_error": 0.78, "density": 0.003, "layer_density": [0.30, 0.02, 0.001, 0.038],
        "bzip2_megabytes": 0.07,
    },
    "fashion_mnist": {
        "test_error": 8.33, "density": 0.031, "layer_density": [0.789, 0.1885, 0.0152, 0.067],
        "bzip2_megabytes": 0.10,
    },
    "imagenet2012": {"test_error": 30.52, "density": 0.074, "bzip2_megabytes": 58.9},
}  # fmt: skip
"""Tables 1, 3, 4 and 5 of Bonetta and Cancelliere (ESANN 2022)."""

CITED: Mapping[Row, dict[str, tuple[float, float]]] = {
    "mnist": {
        "Han et al. 2015": (99.23, 91.6), "Tartaglione et al. 2018": (99.22, 98.0),
        "Ullrich et al. 2017": (99.03, 99.4), "Tartaglione et al. 2021": (99.21, 99.6),
        "Sparse VD": (99.25, 99.6), "Bonetta et al. 2022": (99.22, 99.7),
    },
    "fashion_mnist": {
        "Tartaglione et al. 2018": (91.50, 91.5), "Han et al. 2015": (91.56, 93.0),
        "Tartaglione et al. 2021": (91.53, 95.7), "Bonetta et al. 2022": (91.67, 96.9),
    },
    "imagenet2012": {
        "Han et al. 2015": (68.66, 92.5), "Tartaglione et al. 2018": (69.08, 92.9),
        "Bonetta et al. 2022": (69.48, 92.6),
    },
}  # fmt: skip
"""Accuracy and sparsity in per cent of each method in the same tables."""

LEVELS: Mapping[str, tuple[float, ...]] = {"mnist": (99.0, 99.1, 99.2)}
"""Accuracies in per cent for which the report names the sparsest network."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(CommonConfig):
    """LeNet5 or VGG-16 pruned by gated weight decay while the validation accuracy holds."""

    experiment = "gated_decay"

    dataset: tuple[Literal["all"] | Row, ...] = ("all",)
    """Datasets to train on, a row of the table each; default all that the model has."""
    model: Literal["lenet5", "vgg16"] = "lenet5"
    """lenet5 for MNIST and Fashion-MNIST, vgg16 for ImageNet."""
    preset: Literal["smoke", "quick", "paper"] = "quick"
    """How long: smoke (a few epochs), quick (a third), paper (at most the published number until
    all is pruned; then MNIST fine-tunes for 50 epochs, not 5, and Fashion-MNIST for 30, not 50)."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One run of every row for each."""
    kappa: tuple[int, ...] | None = None
    """Exact numbers of parameters to compress to by learning-compression after the pruning, a row
    each; default the dataset's, none for VGG-16."""
    dense_kappa: tuple[int, ...] | None = None
    """Numbers of parameters to compress LeNet5 to without gated weight decay: by
    learning-compression of the dense network with weight decay (l0 + l2). What dead units still
    hold then goes, too. With these nothing else is trained."""
    finetune_distillation: float = 0.0
    """With --dense-kappa: a further row for each number of parameters, whose fine-tuning has this
    share of the divergence from the dense network's outputs (at temperature 2) in its loss; 0: no
    such rows."""
    lower_bound: float | None = None
    """Validation accuracy, in [0, 1], above which weights are pruned; default the row's."""
    fraction: float | None = None
    """Share of the surviving weights that a pruning takes, in (0, 1)."""
    min_weights: int | None = None
    """Number of parameters at which pruning ends."""
    extra_targets: tuple[int, ...] = ()
    """Further numbers of parameters at which pruning ends, a row each."""
    eval_interval: int | None = None
    """Steps between evaluations."""
    patience: int | None = None
    """Consecutive evaluations without pruning after which pruning ends; 0: never before its epochs
    are over."""
    decay: float | None = None
    """lambda right after a pruning."""
    decay_rate: float | None = None
    """Factor of lambda from one evaluation to the next, until weights are pruned again."""
    mu: float | None = None
    """Weight of the penalty of learning-compression in its first L step."""
    mu_growth: float | None = None
    """Factor of mu from L step to L step."""
    l_step_epochs: int | None = None
    """Epochs of an L step."""
    learning_rate: float | None = None
    """Learning rate before the fine-tuning."""
    finetune_rate: float | None = None
    """Learning rate at the start of the fine-tuning, with cosine decay to 0."""
    finetune_weight_decay: float | None = None
    """Decoupled weight decay of the fine-tuning; the published one has none."""
    finetune_whole: bool | None = None
    """LeNet5: fine-tune on the validation images, too, since they have decided by then; the
    published runs train on all images from the start."""
    momentum: float | None = None
    """Momentum of SGD; 0: Adam instead. With --dense-kappa it is that of the fine-tuning: before
    it, SGD has Nesterov momentum of 0.9."""
    batch_size: int | None = None
    """Images a step."""
    shift: int | None = None
    """LeNet5: maximum random shift of training images in pixels; the published runs: 0."""
    mirror: bool | None = None
    """LeNet5: mirror half of the training images."""
    prune_augmented: bool | None = None
    """LeNet5: augment training images during the pruning, too."""
    weights: Path | None = None
    """VGG-16: a safetensors file of published weights to start from; default random ones."""
    width: float = 1.0
    """VGG-16: multiplier of channels and hidden units, for a trial."""

    def rows(self) -> tuple[Row, ...]:
        """The datasets asked for, in the table's order."""
        there = ROWS[self.model]
        for row in self.dataset:
            if row != "all" and row not in there:
                raise ValueError(f"--dataset of {self.model} must be of {there}; got {row}")
        return tuple(row for row in there if "all" in self.dataset or row in self.dataset)

    def kappas(self, row: Row) -> tuple[int, ...]:
        """The numbers of parameters that the pruned network of ``row`` is compressed to."""
        return KAPPAS.get(row, ()) if self.kappa is None else self.kappa

    def settings(self, row: Row, kappa: int = 0, **varied: Any) -> dict[str, Any]:
        """Return the settings of a run of ``row``: the row's, the flags', then ``varied``.

        ``kappa`` is 0 where the pruned network is not compressed further.
        """
        names = (f"{phase}_epochs" for phase in PHASES)
        found: dict[str, Any] = {"row": row} | dict(
            zip(names, PRESETS[self.preset][row], strict=True)
        )
        found |= self.overridden({**_SHARED, **DEFAULTS[row]})
        if row == "imagenet2012":
            found |= {"weights": str(self.weights or ""), "width": self.width}
        return found | varied | {"kappa": kappa}

    def dense_settings(self, row: Row, kappa: int) -> dict[str, Any]:
        """Return the settings of a run that compresses the dense network of ``row``."""
        start, compress = FROM_DENSE_EPOCHS[self.preset]
        epochs = {"start_epochs": start, "prune_epochs": 0, "compress_epochs": compress}
        return self.settings(row, kappa, **epochs, **self.overridden(dict(FROM_DENSE)))

    def check(self) -> None:
        """See `experiments.common.runner.Config`."""
        self.require("positive", lambda x: x > 0, "batch_size", "eval_interval", "l_step_epochs")
        self.require(
            "positive and finite",
            lambda x: 0 < x < math.inf,
            "learning_rate",
            "finetune_rate",
            "mu",
        )
        self.require("in (0, 1]", lambda x: 0 < x <= 1, "decay_rate")
        self.require("in (0, 1)", lambda x: 0 < x < 1, "fraction")
        self.require("in [0, 1], not in per cent", lambda x: 0 <= x <= 1, "lower_bound")
        self.require("in [0, 1)", lambda x: 0 <= x < 1, "momentum")
        self.require("in [0, 27]", lambda x: 0 <= x <= 27, "shift")
        self.require(">= 0", lambda x: x >= 0, "patience")
        self.require(
            "finite and >= 0", lambda x: 0 <= x < math.inf, "decay", "finetune_weight_decay"
        )
        self.require("finite and >= 1", lambda x: 1 <= x < math.inf, "mu_growth")
        self.require("in [0, 1]", lambda x: 0 <= x <= 1, "finetune_distillation")
        if self.finetune_distillation and not self.dense_kappa:
            raise ValueError("--finetune-distillation needs --dense-kappa")
        self._check_lists()
        lenet5 = ("finetune_whole", "dense_kappa", "shift", "mirror", "prune_augmented")
        for name in lenet5:
            if self.model == "vgg16" and getattr(self, name):
                raise ValueError(f"{flag_of(name)} is for --model lenet5 alone")
        for row in self.rows():
            self._check_l_steps(row)

    def _check_lists(self) -> None:
        self.require_some("dataset", "dataset")
        self.require_some("seeds", "seed")
        self.require_some("dense_kappa", "number of parameters")
        counts = ("kappa", "extra_targets", "dense_kappa")
        self.require("at least 1", lambda x: x >= 1, *counts)
        if self.model == "lenet5":
            allowed = f"at most {LENET5_PARAMETERS}, all parameters of LeNet5"
            self.require(allowed, lambda x: x <= LENET5_PARAMETERS, *counts)
        self.require_distinct(*counts)
        for row in self.rows():
            # Both would be rows of the same name.
            if both := {*self.kappas(row)} & {*self.extra_targets}:
                raise ValueError(
                    f"--extra-targets must not hold a number of --kappa, {self.kappas(row)} for "
                    f"{row}; got {min(both)}"
                )

    def _check_l_steps(self, row: Row) -> None:
        """Refuse a last L step that is cut short: a C step ends each, so it would be in vain."""
        if self.dense_kappa:
            settings = self.dense_settings(row, self.dense_kappa[0])
        elif self.kappas(row):
            settings = self.settings(row, self.kappas(row)[0])
        else:
            return
        epochs = settings["compress_epochs"]
        if epochs % settings["l_step_epochs"]:
            raise ValueError(
                f"--l-step-epochs must divide {epochs}, the epochs of learning-compression with "
                f"--preset {self.preset}; got {settings['l_step_epochs']}"
            )
