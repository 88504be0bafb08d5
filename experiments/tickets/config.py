"""The flags of the experiment and its presets."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from experiments.tickets import options
from experiments.tickets.networks import CIFAR_MODELS

MethodName = Literal["cs", "imp", "imp_continued", "one_shot", "random", "l0"]
METHODS: tuple[MethodName, ...] = ("cs", "imp", "imp_continued", "one_shot", "random", "l0")


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How long: what a preset fixes."""

    epochs: int
    """Of a round, and of the training of a ticket."""
    rounds: int
    """Of continuous sparsification."""
    pruning_rounds: int
    """Of iterative magnitude pruning."""
    rewind_epochs: int


PRESETS: Mapping[str, Schedule] = {
    "smoke": Schedule(2, 2, 2, 1),
    "quick": Schedule(20, 3, 20, 2),
    "paper": Schedule(85, 5, 30, 2),
}

_PUBLISHED = (-0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3)
_MNIST = (-0.3, -0.2, -0.1, -0.03)  # from 0.05 on nothing is pruned there
STARTS: Mapping[str, tuple[float, ...]] = {
    "lenet300": _MNIST, "lenet5": (-0.1, -0.04), "resnet20": _PUBLISHED, "vgg16": _PUBLISHED,
}  # fmt: skip
"""Of the gates of continuous sparsification."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Search for subnetworks that train as well as the whole, many searches in one program."""

    model: Literal["lenet300", "lenet5", "resnet20", "vgg16"] = "lenet300"
    """The network; the latter two (with batch normalisation) are for CIFAR-10."""
    dataset: Literal["mnist", "fashion_mnist", "cifar10"] | None = None
    """What it learns; default mnist, or cifar10 for its two networks."""
    method: tuple[Literal["all"] | MethodName, ...] = ("all",)
    """cs (continuous sparsification), imp (iterative magnitude pruning), imp_continued (without
    rewinding), one_shot (magnitude pruning at once), random (masks by lot), l0 (hard-concrete)."""
    preset: Literal["smoke", "quick", "paper"] = "quick"
    """How long: smoke (2 epochs a round), quick (20), paper (85, as published)."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Members of every population: initial weights and gates."""
    initial: tuple[float, ...] | None = None
    """cs: where the gates start, a member each for every seed; smaller ones end sparser. Default by
    the network."""
    penalty: tuple[float, ...] = (1e-8,)
    """cs: lambda, a member each for every seed and start."""
    published: bool = False
    """cs: do as the published code does wherever it differs from the paper's equations and from our
    other runs, unless one of the following seven flags says otherwise."""
    ticket_scale: options.Scale | None = None
    """cs: where the scale 1/sigma(s0) of a ticket's mask is while the ticket is trained: outside of
    the weights (default, and published), or folded into them."""
    penalty_on: options.PenaltyOn | None = None
    """cs: what lambda multiplies: the mask sigma(beta s) (default), or the scaled_mask
    sigma(beta s) / sigma(s0) (published)."""
    search_weights: options.Weights | None = None
    """cs: between the rounds of a search: rewound (default) or continued (published)."""
    search_optimizer: options.Optimizer | None = None
    """cs: between the rounds of a search: renewed (default) or continued, that is with its momentum
    (published)."""
    search_gates: options.Gates | None = None
    """cs: what a round closed stays closed (default), or may be reopened, since gates restart at
    min(s, s0) and not at min(beta s, s0) (published)."""
    beta: options.Beta | None = None
    """cs: smooth, rising at every step (default), or a staircase of epochs (published)."""
    ticket_statistics: options.Statistics | None = None
    """cs, resnet20 and vgg16: the running statistics that the training of a ticket starts from:
    initial (default) or rewound like its weights (published)."""
    fraction: float = 0.2
    """imp: share of the survivors that a round prunes."""
    densities: tuple[float, ...] = (0.1, 0.05, 0.02)
    """one_shot and random: shares of the weights that stay, a member each for every seed."""
    l0_penalties: tuple[float, ...] = (1e-5, 1e-4, 1e-3)
    """l0: its lambda, a member each for every seed."""
    epochs: int | None = None
    """Of a round; default the preset's."""
    rounds: int | None = None
    """Of cs; default the preset's."""
    pruning_rounds: int | None = None
    """Of imp and imp_continued; default the preset's. 0 trains the whole network alone."""
    learning_rate: float = 0.1
    """Of SGD with Nesterov's momentum 0.9; a tenth of it after 2/3 and a hundredth after 5/6."""
    weight_decay: float = 1e-4
    """Of the weights."""
    batch_size: int = 128
    """Images a step."""
    width: float = 1.0
    """resnet20 and vgg16: multiplier of the channels, for a trial."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """resnet20 and vgg16: of the computation; weights are float32."""
    devices: int | None = None
    """Over how many devices members are dealt out (a divisor of their number); default all that
    there are, of a CPU all cores."""
    vmap_size: int | None = None
    """How many members of a device are computed together (a divisor of their number); default 1 on
    a CPU, elsewhere all."""
    output: Path = Path("runs/tickets")
    """Folder of the runs: a folder for each method and round."""
    results: Path | None = None
    """Folder of the report and the figures, one for all networks and datasets; default
    OUTPUT/results. Points are added to those that are there with the same settings and seeds."""
    data_dir: Path | None = None
    """Folder of the datasets; default $SPARSEJAX_DATA_DIR, else the user's cache folder."""
    resume: bool = False
    """Continue what is already in OUTPUT."""
    so_far: bool = False
    """Train nothing: report the rounds in OUTPUT that have ended."""

    def trained_on(self) -> str:
        """The dataset."""
        return self.dataset or ("cifar10" if self.model in CIFAR_MODELS else "mnist")

    def group(self) -> str:
        """The network and what it learns, as folders, figures and sections are named."""
        return f"{self.model}_{self.trained_on()}"

    def methods(self) -> tuple[MethodName, ...]:
        """Those asked for, in the order of the table."""
        return tuple(m for m in METHODS if "all" in self.method or m in self.method)

    def settings(self, method: MethodName) -> dict[str, Any]:
        """What defines a population, as JSON values."""
        schedule = PRESETS[self.preset]
        pruning = self.pruning_rounds
        pruning = schedule.pruning_rounds if pruning is None else pruning
        several = {"imp": pruning, "imp_continued": pruning, "cs": self.rounds or schedule.rounds}
        return {
            "model": self.model,
            "dataset": self.trained_on(),
            "method": method,
            "epochs": self.epochs or schedule.epochs,
            "rounds": several.get(method, 1),
            "rewind_epochs": schedule.rewind_epochs,
            "learning_rate": self.learning_rate,
            "weight_decay": self.weight_decay,
            "batch_size": self.batch_size,
            "width": self.width,
            "dtype": self.dtype,
            **(self.chosen() if method == "cs" else {}),
            "members": self.members(method),
        }

    def chosen(self) -> dict[str, str]:
        """What continuous sparsification does where there is a choice."""
        usual = options.PUBLISHED if self.published else options.DEFAULT
        return {name: getattr(self, name) or value for name, value in usual.items()}

    def members(self, method: MethodName) -> list[dict[str, float]]:
        """The hyperparameters of each member, its seed among them."""
        grid: list[dict[str, float]]
        if method == "cs":
            initial = STARTS[self.model] if self.initial is None else self.initial
            grid = [{"initial": s, "penalty": p} for s in initial for p in self.penalty]
        elif method in ("imp", "imp_continued"):
            grid = [{"fraction": self.fraction}]
        elif method == "l0":
            grid = [{"penalty": penalty} for penalty in self.l0_penalties]
        else:
            grid = [{"fraction": 1 - density} for density in self.densities]
        return [point | {"seed": seed} for seed in self.seeds for point in grid]


def check(config: Config) -> None:
    """Raise ValueError where a flag is out of its range; the library checks the others."""
    if (config.model in CIFAR_MODELS) != (config.trained_on() == "cifar10"):
        raise ValueError(
            "--dataset must be cifar10 for resnet20 and vgg16, and mnist or fashion_mnist for the "
            f"others; got --model {config.model} --dataset {config.dataset}"
        )
    if config.model not in CIFAR_MODELS and (config.width != 1 or config.dtype != "float32"):
        raise ValueError("--width and --dtype are for --model resnet20 and vgg16 alone")
    if config.pruning_rounds is not None and config.pruning_rounds < 0:
        raise ValueError(f"--pruning-rounds must be at least 0; got {config.pruning_rounds}")
    for name in ("epochs", "rounds", "batch_size", "learning_rate", "devices", "vmap_size"):
        given = getattr(config, name)
        if given is not None and not given > 0:
            raise ValueError(f"--{name.replace('_', '-')} must be positive; got {given}")
    for density in config.densities:
        if not 0 < density < 1:
            raise ValueError(f"--densities must be in (0, 1); got {density}")
    if "cs" in config.methods() and config.chosen()["beta"] == "staircase":
        epochs = config.settings("cs")["epochs"]
        if epochs < 2:
            raise ValueError(f"--beta staircase needs at least 2 epochs a round; got {epochs}")
    if not config.seeds:
        raise ValueError("--seeds must name at least one seed; got none")
    if config.epochs is not None and config.epochs < PRESETS[config.preset].rewind_epochs:
        rewind = PRESETS[config.preset].rewind_epochs
        raise ValueError(
            f"--epochs must be at least {rewind}, since weights are rewound to that epoch; got "
            f"{config.epochs}"
        )
