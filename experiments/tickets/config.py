"""Flags, presets and the options of continuous sparsification."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

from experiments.common.networks import CIFAR_MODELS
from experiments.common.runner import Config as CommonConfig

Method = Literal["cs", "imp", "imp_continued", "one_shot", "random", "l0"]
METHODS: tuple[Method, ...] = get_args(Method)


class Schedule(NamedTuple):
    """The lengths that a preset fixes."""

    epochs: int
    """Epochs of a round, and of the training of a ticket."""
    rounds: int
    """Rounds of continuous sparsification."""
    pruning_rounds: int
    """Rounds of iterative magnitude pruning."""
    rewind_epochs: int


PRESETS: Mapping[str, Schedule] = {
    "smoke": Schedule(2, 2, 2, 1),
    "quick": Schedule(20, 3, 20, 2),
    "paper": Schedule(85, 5, 30, 2),
}

_PUBLISHED_STARTS = (-0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3)
STARTS: Mapping[str, tuple[float, ...]] = {
    "lenet300": (-0.3, -0.2, -0.1, -0.03),  # from 0.05 on nothing is pruned on MNIST
    "lenet5": (-0.1, -0.04),
    "resnet20": _PUBLISHED_STARTS,
    "vgg16": _PUBLISHED_STARTS,
}
"""Initial values of the gates of continuous sparsification."""

Variant = Literal["published", "rewound"]
VARIANTS: Mapping[Variant, Mapping[str, str]] = {
    "published": {
        "ticket_scale": "outside",
        "penalty_on": "scaled_mask",
        "search_weights": "continued",
        "search_optimizer": "continued",
        "search_gates": "reopened",
        "beta": "staircase",
        "ticket_statistics": "rewound",
    },
    "rewound": {
        "ticket_scale": "folded",
        "penalty_on": "mask",
        "search_weights": "rewound",
        "search_optimizer": "renewed",
        "search_gates": "closed",
        "beta": "smooth",
        "ticket_statistics": "initial",
    },
}
"""The options of continuous sparsification: those of the published code, which trains on between
the rounds of a search, and those of a search in which every round starts from rewound weights."""
DEFAULT: Variant = "rewound"  # results/tickets/tuning.md says what was measured
PUBLISHED = VARIANTS["published"]
_VARIANT_TITLES: Mapping[Variant, str] = {
    "published": "as the published code",
    "rewound": "rewound between rounds",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(CommonConfig):
    """Search for subnetworks that train as well as the whole, many searches in one program."""

    experiment = "tickets"

    model: Literal["lenet300", "lenet5", "resnet20", "vgg16"] = "lenet300"
    """The network; the latter two (with batch normalisation) are for CIFAR-10."""
    dataset: Literal["mnist", "fashion_mnist", "cifar10"] | None = None
    """The dataset; default mnist, or cifar10 for its two networks."""
    method: tuple[Literal["all"] | Method, ...] = ("all",)
    """cs (continuous sparsification), imp (iterative magnitude pruning), imp_continued (without
    rewinding), one_shot (magnitude pruning at once), random (random masks), l0 (hard-concrete)."""
    preset: Literal["smoke", "quick", "paper"] = "quick"
    """How long: smoke (2 epochs a round), quick (20), paper (85, as published)."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Members of every population: initial weights and gates."""
    initial: tuple[float, ...] | None = None
    """cs: initial values of the gates, a member each for every seed; smaller ones end sparser.
    Default by the network."""
    penalty: tuple[float, ...] = (1e-8,)
    """cs: lambda, a member each for every seed and initial value."""
    variant: Variant = DEFAULT
    """cs: the defaults of the next seven flags: those of a search that is rewound between its
    rounds, or those of the published code."""
    ticket_scale: Literal["outside", "folded"] | None = None
    """cs: where the scale 1/sigma(s0) of a ticket's mask is while the ticket is trained: outside of
    the weights (published), or folded into them (rewound)."""
    penalty_on: Literal["mask", "scaled_mask"] | None = None
    """cs: what lambda multiplies: the scaled_mask sigma(beta s) / sigma(s0) (published), or the
    mask sigma(beta s) (rewound)."""
    search_weights: Literal["rewound", "continued"] | None = None
    """cs: between the rounds of a search: continued (published) or rewound."""
    search_optimizer: Literal["renewed", "continued"] | None = None
    """cs: between the rounds of a search: continued with its momentum (published) or renewed
    (rewound)."""
    search_gates: Literal["closed", "reopened"] | None = None
    """cs: what a round closed may be reopened (published, restart at min(s, s0)), or stays closed
    (rewound, restart at min(beta s, s0))."""
    beta: Literal["smooth", "staircase"] | None = None
    """cs: a staircase of epochs (published), or smooth, rising at every step (rewound)."""
    ticket_statistics: Literal["initial", "rewound"] | None = None
    """cs, resnet20 and vgg16: the running statistics that the training of a ticket starts from:
    rewound like its weights (published) or initial (rewound)."""
    fraction: float = 0.2
    """imp: share of the survivors that a round prunes."""
    densities: tuple[float, ...] = (0.1, 0.05, 0.02)
    """one_shot and random: shares of the weights that stay, a member each for every seed."""
    l0_penalties: tuple[float, ...] = (1e-5, 1e-4, 1e-3)
    """l0: its lambda, a member each for every seed."""
    epochs: int | None = None
    """Epochs of a round; default the preset's."""
    rounds: int | None = None
    """Rounds of cs; default the preset's."""
    pruning_rounds: int | None = None
    """Rounds of imp and imp_continued; default the preset's. 0 trains the whole network alone."""
    learning_rate: float = 0.1
    """Learning rate of SGD with Nesterov momentum 0.9; a tenth of it after 2/3 and a hundredth
    after 5/6 of a round."""
    weight_decay: float = 1e-4
    """Decay of the weights."""
    batch_size: int = 128
    """Images a step."""
    width: float = 1.0
    """resnet20 and vgg16: multiplier of the channels, for a trial."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """resnet20 and vgg16: dtype of the computation; weights are float32."""
    devices: int | None = None
    """Devices that members are sharded over (a divisor of their number); default all that there
    are, of a CPU all cores."""
    vmap_size: int | None = None
    """Members of a device that are computed together (a divisor of their number); default 1 on a
    CPU, elsewhere all."""

    @property
    def task(self) -> str:
        """The dataset, by default that of the model."""
        return self.dataset or ("cifar10" if self.model in CIFAR_MODELS else "mnist")

    @property
    def group(self) -> str:
        """The network and its dataset, as folders, figures and sections are named."""
        return f"{self.model}_{self.task}"

    def methods(self) -> tuple[Method, ...]:
        """The methods asked for, in the order of the table."""
        return tuple(m for m in METHODS if "all" in self.method or m in self.method)

    def settings(self, method: Method) -> dict[str, Any]:
        """Return the settings that define a population, as JSON values."""
        schedule = PRESETS[self.preset]
        pruning = self.pruning_rounds
        pruning = schedule.pruning_rounds if pruning is None else pruning
        several = {"imp": pruning, "imp_continued": pruning, "cs": self.rounds or schedule.rounds}
        return {
            "model": self.model,
            "dataset": self.task,
            "method": method,
            "epochs": self.epochs or schedule.epochs,
            "rounds": several.get(method, 1),
            "rewind_epochs": schedule.rewind_epochs,
            "learning_rate": self.learning_rate,
            "weight_decay": self.weight_decay,
            "batch_size": self.batch_size,
            "width": self.width,
            "dtype": self.dtype,
            **(self.options() if method == "cs" else {}),
            "members": self.members(method),
        }

    def options(self) -> dict[str, str]:
        """The options of continuous sparsification."""
        return self.overridden(VARIANTS[self.variant])

    def members(self, method: Method) -> list[dict[str, float]]:
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

    def check(self) -> None:
        """See `experiments.common.runner.Config`."""
        if (self.model in CIFAR_MODELS) != (self.task == "cifar10"):
            raise ValueError(
                "--dataset must be cifar10 for resnet20 and vgg16, and mnist or fashion_mnist for "
                f"the others; got --model {self.model} --dataset {self.dataset}"
            )
        if self.model not in CIFAR_MODELS and (self.width != 1 or self.dtype != "float32"):
            raise ValueError("--width and --dtype are for --model resnet20 and vgg16 alone")
        self.require("at least 0", lambda x: x >= 0, "pruning_rounds")
        self.require(
            "positive",
            lambda x: x > 0,
            "epochs", "rounds", "batch_size", "learning_rate", "devices", "vmap_size",
        )  # fmt: skip
        self.require("in (0, 1)", lambda x: 0 < x < 1, "densities")
        self.require_some("seeds", "seed")
        schedule, rewind = PRESETS[self.preset], PRESETS[self.preset].rewind_epochs
        epochs = self.epochs or schedule.epochs
        if "cs" in self.methods() and self.options()["beta"] == "staircase" and epochs < 2:
            raise ValueError(f"--beta staircase needs at least 2 epochs a round; got {epochs}")
        if epochs < rewind:
            raise ValueError(
                f"--epochs must be at least {rewind}, since weights are rewound to that epoch; got "
                f"{epochs}"
            )


def _nearest(settings: Mapping[str, Any]) -> tuple[Variant, list[str]]:
    """The variant that the options are nearest to, and the options that differ from it."""

    def differing(variant: Variant) -> list[str]:
        theirs = VARIANTS[variant]
        return [f"{name} {settings[name]}" for name in theirs if settings[name] != theirs[name]]

    variant = min(VARIANTS, key=lambda variant: len(differing(variant)))
    return variant, differing(variant)


def option_title(settings: Mapping[str, Any]) -> str:
    """The options of continuous sparsification in short: a variant, and what differs from it."""
    variant, differing = _nearest(settings)
    return ", ".join([_VARIANT_TITLES[variant], *differing]).replace("_", " ")


def row_name(group: str, method: str, settings: Mapping[str, Any]) -> str:
    """The name of a row; options of continuous sparsification other than the default are in it."""
    variant, differing = _nearest(settings) if method == "cs" else (DEFAULT, [])
    own = [] if variant == DEFAULT and not differing else [variant, *differing]
    return "_".join([group, method, *own]).replace(" ", "_")


def option_notes(settings: Mapping[str, Any], statistics: bool) -> str:
    """All options for the report, beside those of the published code where they differ."""
    said = []
    for name, theirs in PUBLISHED.items():
        if statistics or name != "ticket_statistics":
            note = "" if settings[name] == theirs else f" (published code: {theirs})"
            said.append(f"`{name}` {settings[name]}{note}")
    return "; ".join(said)
