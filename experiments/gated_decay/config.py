"""The flags of the experiment, its presets, each row's settings, and the published tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

Row = Literal["mnist", "fashion_mnist", "imagenet2012"]
ROWS: Mapping[str, tuple[Row, ...]] = {
    "lenet5": ("mnist", "fashion_mnist"), "vgg16": ("imagenet2012",)
}  # fmt: skip
PHASES = ("start", "prune", "compress", "finetune")


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How long: what a preset fixes for a row, in epochs."""

    start_epochs: int
    """Without regularisation, before it begins; 0: from the initial parameters."""
    prune_epochs: int
    compress_epochs: int
    """Of the learning-compression, in the rows that have one."""
    finetune_epochs: int


PRESETS: Mapping[str, Mapping[Row, Schedule]] = {
    "smoke": {
        "mnist": Schedule(0, 2, 1, 1),
        "fashion_mnist": Schedule(1, 2, 1, 1),
        "imagenet2012": Schedule(0, 2, 1, 1),
    },
    "quick": {
        "mnist": Schedule(0, 40, 5, 10),
        "fashion_mnist": Schedule(8, 27, 5, 15),
        "imagenet2012": Schedule(0, 10, 3, 10),
    },
    "paper": {
        "mnist": Schedule(0, 120, 10, 50),
        "fashion_mnist": Schedule(24, 81, 10, 30),
        "imagenet2012": Schedule(0, 30, 10, 30),
    },
}

DEFAULTS: Mapping[Row, dict[str, Any]] = {
    "mnist": {"lower_bound": 0.988, "at_least": 1077, "finetune_whole": True},
    "fashion_mnist": {
        "lower_bound": 0.9,
        "at_least": 10_700,
        "finetune_rate": 3e-3,
        "finetune_weight_decay": 0.03,
        "mirror": True,
        "prune_augmented": False,
    },
    "imagenet2012": {
        "learning_rate": 1e-4,
        "finetune_rate": 1e-4,
        "momentum": 0.9,
        "at_least": 0,
        "decay": 1e-4,
        "fraction": 0.01,
        "eval_interval": 2500,
        "lower_bound": 0.685,
    },
}
_SHARED: Mapping[str, Any] = {
    "batch_size": 100,
    "shift": 1,
    "mirror": False,
    "prune_augmented": True,
    "learning_rate": 1e-3,
    "finetune_rate": 1e-2,
    "finetune_weight_decay": 0.0,
    "finetune_whole": False,
    "momentum": 0.0,
    "decay": 3e-4,
    "decay_rate": 0.9,
    "fraction": 0.05,
    "at_least": 0,
    "eval_interval": 250,
    "patience": 0,
    "mu": 1e-3,
    "mu_growth": 1.5,
    "l_step_epochs": 1,
}

KAPPAS: Mapping[Row, tuple[int, ...]] = {"mnist": (862,)}
"""Exact numbers of parameters to go on to: 99.8 % sparsity."""

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
        "Han et al. 2015": (99.23, 91.6),
        "Tartaglione et al. 2018": (99.22, 98.0),
        "Ullrich et al. 2017": (99.03, 99.4),
        "Tartaglione et al. 2021": (99.21, 99.6),
        "Sparse VD": (99.25, 99.6),
        "Bonetta et al. 2022": (99.22, 99.7),
    },
    "fashion_mnist": {
        "Tartaglione et al. 2018": (91.50, 91.5),
        "Han et al. 2015": (91.56, 93.0),
        "Tartaglione et al. 2021": (91.53, 95.7),
        "Bonetta et al. 2022": (91.67, 96.9),
    },
    "imagenet2012": {
        "Han et al. 2015": (68.66, 92.5),
        "Tartaglione et al. 2018": (69.08, 92.9),
        "Bonetta et al. 2022": (69.48, 92.6),
    },
}
"""The same tables' accuracy and sparsity in per cent, by method."""

LEVELS: Mapping[Row, tuple[float, ...]] = {"mnist": (99.0, 99.1, 99.2)}
"""Accuracies in per cent for which the report names the sparsest network."""


@dataclasses.dataclass(frozen=True)
class Config:
    """LeNet5 or VGG-16 pruned by gated weight decay while the validation accuracy holds."""

    dataset: tuple[Literal["all"] | Row, ...] = ("all",)
    """What to train on: a row of the table each; default all that the model has."""
    model: Literal["lenet5", "vgg16"] = "lenet5"
    """lenet5 for MNIST and Fashion-MNIST, vgg16 for ImageNet."""
    preset: Literal["smoke", "quick", "paper"] = "quick"
    """How long: smoke (a few epochs), quick (a third), paper (at most the published number until
    all is pruned; then MNIST fine-tunes for 50 epochs, not 5, and Fashion-MNIST for 30, not 50)."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One run of every row for each."""
    kappa: tuple[int, ...] | None = None
    """Exact numbers of parameters to compress to by learning-compression behind the pruning, a
    row each; default the dataset's, none for VGG-16."""
    lower_bound: float | None = None
    """Validation accuracy, in [0, 1], above which weights are pruned; default the row's."""
    fraction: float | None = None
    """Share of the surviving weights that a pruning takes, in (0, 1)."""
    at_least: int | None = None
    """Parameters at which pruning ends."""
    earlier: tuple[int, ...] = ()
    """Further such numbers, a row each."""
    eval_interval: int | None = None
    """Steps between assessments."""
    patience: int | None = None
    """Assessments in a row that prune nothing after which pruning ends; 0: never before its
    epochs are over."""
    decay: float | None = None
    """lambda right after a pruning."""
    decay_rate: float | None = None
    """Its fall from one assessment to the next, until weights are pruned again."""
    mu: float | None = None
    """The penalty of the learning-compression in its first L step."""
    mu_growth: float | None = None
    """Factor of mu from L step to L step."""
    l_step_epochs: int | None = None
    """Epochs in an L step."""
    learning_rate: float | None = None
    """Before the fine-tuning."""
    finetune_rate: float | None = None
    """At the start of the fine-tuning, from where it falls to 0 with a cosine."""
    finetune_weight_decay: float | None = None
    """Decoupled weight decay of the fine-tuning; the published one has none."""
    finetune_whole: bool | None = None
    """LeNet5: whether the fine-tuning sees the validation images, too. They have decided by then;
    the published runs train on all images from the start."""
    momentum: float | None = None
    """Of SGD; 0: Adam in its place."""
    batch_size: int | None = None
    """Images a step."""
    shift: int | None = None
    """LeNet5: pixels by which training images are shifted at random; the published runs: 0."""
    mirror: bool | None = None
    """LeNet5: whether half of the training images are mirrored."""
    prune_augmented: bool | None = None
    """LeNet5: whether they are shifted and mirrored while weights are pruned, too."""
    weights: Path | None = None
    """VGG-16: a safetensors file of published weights to start from; default random ones."""
    width: float = 1.0
    """VGG-16: multiplier of channels and hidden units, for a trial."""
    output: Path = Path("runs/gated_decay")
    """Folder of the runs: configuration, metrics, checkpoints, networks."""
    results: Path | None = None
    """Folder of the report and the figures; default OUTPUT/results."""
    data_dir: Path | None = None
    """Folder of the datasets; default $SPARSEJAX_DATA_DIR, else the user's cache folder."""
    resume: bool = False
    """Continue what is already in OUTPUT; runs that ended are not run again."""

    def rows(self) -> tuple[Row, ...]:
        """The datasets asked for, in the table's order."""
        there = ROWS[self.model]
        chosen = tuple(row for row in there if "all" in self.dataset or row in self.dataset)
        for row in self.dataset:
            if row != "all" and row not in there:
                raise ValueError(f"--dataset of {self.model} must be of {there}; got {row}")
        return chosen

    def kappas(self, row: Row) -> tuple[int, ...]:
        """What the pruned network of ``row`` is compressed to."""
        return KAPPAS.get(row, ()) if self.kappa is None else self.kappa

    def settings(self, row: Row, kappa: int = 0, at_least: int | None = None) -> dict[str, Any]:
        """What defines a run of ``row``, as JSON values: the row's, overridden by the flags.

        ``kappa`` is 0 where the pruned network is not compressed further; ``at_least`` overrides
        where its pruning ends.
        """
        chosen = dict(_SHARED) | DEFAULTS[row]
        for name in chosen:
            given = getattr(self, name)
            if given is not None:
                chosen[name] = given
        found = {"row": row} | dataclasses.asdict(PRESETS[self.preset][row]) | chosen
        if row == "imagenet2012":
            found |= {"weights": str(self.weights or ""), "width": self.width}
        if at_least is not None:
            found["at_least"] = at_least
        return found | {"kappa": kappa}


def check(config: Config) -> None:
    """Raise ValueError where a flag is out of its range; the library checks the others."""
    positive = ("learning_rate", "finetune_rate", "batch_size", "eval_interval", "l_step_epochs")
    for name in positive:
        given = getattr(config, name)
        if given is not None and not given > 0:
            raise ValueError(f"--{name.replace('_', '-')} must be positive; got {given}")
    if config.decay_rate is not None and not 0 < config.decay_rate <= 1:
        raise ValueError(f"--decay-rate must be in (0, 1]; got {config.decay_rate}")
    for name, least in (
        ("patience", 0),
        ("momentum", 0),
        ("finetune_weight_decay", 0),
        ("mu_growth", 1),
    ):
        given = getattr(config, name)
        if given is not None and not given >= least:
            raise ValueError(f"--{name.replace('_', '-')} must be >= {least}; got {given}")
    if config.model == "vgg16" and config.finetune_whole:
        raise ValueError("--finetune-whole is for --model lenet5 alone")
    for kappa in config.kappa or ():
        if kappa < 1:
            raise ValueError(f"--kappa must be at least 1; got {kappa}")
