"""The flags of the experiment, its networks and their budgets."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args

import tyro
from flax import nnx

from experiments.common.runner import AddingConfig
from experiments.compare.methods import METHODS, PEERS, Name, jaxpruner, names
from sparsejax.models import LENET5_LAYERS, LENET300_LAYERS, LeNet5, LeNet300

Network = Literal["lenet300_mnist", "lenet5_fashion_mnist"]


class Task(NamedTuple):
    """A network, its data, and the lengths and budgets at which methods are compared."""

    model: Callable[..., nnx.Module]
    name: str
    layers: tuple[str, ...]
    """The layers from input to output, for ``sparsejax.inspection.live_units``."""
    dataset: str
    epochs: int
    """Epochs in all: searches, pruning and fine-tuning together."""
    budgets: tuple[str, ...]
    """Weights left, in per cent of the kernels' weights."""
    tuned_at: str
    """The budget at which the settings of each method are chosen."""
    tuning_epochs: int
    """Epochs of a run that chooses settings."""
    timed_share: float = 0.1
    """Share of the training images in a run that measures the time of a step."""
    replaced: Mapping[str, Mapping[float, float]] = {}
    """For some settings of `METHODS`, which are for LeNet300, what takes the place of a value."""


TASKS: Mapping[str, Task] = {
    "lenet300_mnist": Task(
        functools.partial(LeNet300, "relu"),
        "lenet300",
        LENET300_LAYERS,
        "mnist",
        100,
        ("5", "2", "1", "0.5"),
        "1",
        40,
    ),
    "lenet5_fashion_mnist": Task(
        LeNet5,
        "lenet5",
        LENET5_LAYERS,
        "fashion_mnist",
        30,
        ("2.5", "1"),
        "1",
        12,
        timed_share=0.05,
        # At 0.3 LeNet5 is lost in the first steps, and mu has fewer steps to act in.
        replaced={"rate": {0.3: 0.033}, "mu": {9e-5: 3e-4, 3e-4: 1e-3}},
    ),
}


def unit_counts(network: str) -> dict[str, int]:
    """Return the units of each layer of a network before anything is pruned."""
    task = TASKS[network]
    model = nnx.eval_shape(lambda: task.model(rngs=nnx.Rngs(0)))
    return {layer: getattr(model, layer).kernel.shape[-1] for layer in task.layers}


TUNING_SEED = 100
"""The seed of the runs that choose settings; no reported run has it."""
_TIMING_ROUNDS = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(AddingConfig):
    """Every method of the library at the same budgets of weights and epochs."""

    experiment = "compare"

    network: tuple[Literal["all"] | Network, ...] = ("all",)
    """Networks to train."""
    method: Annotated[tuple[Literal["all"] | Name, ...], tyro.conf.arg(aliases=["--methods"])] = (
        "all",
    )
    """Methods to compare."""
    preset: Literal["smoke", "full"] = "full"
    """How long: smoke (3 epochs, one budget), full (100 epochs of LeNet300, 30 of LeNet5)."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One run of every method and budget for each; all runs of a seed come before the next's."""
    kept_percent: tuple[str, ...] = ()
    """Budgets to train with, of those of the network; default all."""
    tune_only: bool = False
    """Choose the settings and stop; no test error is computed."""
    timing_rounds: int | None = None
    """Rounds of short runs, at the end, in which the methods take turns, to measure what a step
    costs beside one of dense training; nothing else should run on the machine meanwhile. Default 3;
    none with --add or the preset smoke."""
    time_only: bool = False
    """Measure times alone, and add them to a report (--add), with its settings."""
    batch_size: int = 128
    """Images a step."""

    jaxpruner: Path | None = None
    """Folder with a checkout of JaxPruner, which no package index has in a current version; its
    RigL (rigl_jaxpruner) is then compared, too."""

    def networks(self) -> tuple[Network, ...]:
        """The networks asked for."""
        return tuple(n for n in get_args(Network) if "all" in self.network or n in self.network)

    def methods(self) -> tuple[Name, ...]:
        """The methods asked for, in the table's order."""
        hidden = PEERS if self.jaxpruner is None else frozenset()
        everything = [name for name in names() if "all" in self.method and name not in hidden]
        return tuple(name for name in names() if name in everything or name in self.method)

    def budgets(self, network: str) -> tuple[str, ...]:
        """The budgets of a network, in per cent."""
        task = TASKS[network]
        budgets = (task.tuned_at,) if self.preset == "smoke" else task.budgets
        return tuple(b for b in budgets if b in self.kept_percent or not self.kept_percent)

    def rounds(self) -> int:
        """The rounds in which times are measured."""
        if self.tune_only:
            return 0
        if self.timing_rounds is not None:
            return self.timing_rounds
        return _TIMING_ROUNDS if self.time_only or not (self.add or self.preset == "smoke") else 0

    def timed_settings(
        self, network: str, method: Name, chosen: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the settings of a run that measures times."""
        budget = "100" if method == "dense" else TASKS[network].tuned_at
        share = 1.0 if self.preset == "smoke" else TASKS[network].timed_share
        return self.settings(network, method, budget, chosen) | {"image_share": share}

    def candidates(self, network: str, method: Name) -> list[dict[str, Any]]:
        """The settings to choose from for a method on a network."""
        return [_adapted(network, candidate) for candidate in METHODS[method].candidates]

    def settings(
        self,
        network: str,
        method: Name,
        budget: str,
        chosen: Mapping[str, Any],
        tuning: bool = False,
    ) -> dict[str, Any]:
        """Return the settings of a run, as JSON values; ``chosen`` is one of its candidates."""
        epochs = TASKS[network].tuning_epochs if tuning else TASKS[network].epochs
        return {
            "network": network,
            "method": method,
            "kept_percent": budget,
            "epochs": 3 if self.preset == "smoke" else epochs,
            "batch_size": self.batch_size,
            **_adapted(network, METHODS[method].shared),
            **chosen,
        }

    def check(self) -> None:
        """See `experiments.common.runner.Config`."""
        self.require("positive", lambda x: x > 0, "batch_size")
        self.require("at least 0", lambda x: x >= 0, "timing_rounds")
        if self.time_only and self.tune_only:
            raise ValueError("--time-only and --tune-only exclude one another")
        if self.time_only and not self.add:
            raise ValueError("--time-only needs --add, and in --results the report to add to")
        if self.time_only and not self.rounds():
            raise ValueError("--time-only needs --timing-rounds of at least 1; got 0")
        if self.jaxpruner is not None:
            jaxpruner.use(self.jaxpruner)
        elif not self.partial and PEERS.intersection(self.methods()):
            raise ValueError("--methods rigl_jaxpruner needs --jaxpruner, a checkout of JaxPruner")
        there = {budget for network in self.networks() for budget in TASKS[network].budgets}
        if unknown := set(self.kept_percent) - there:
            raise ValueError(
                f"--kept-percent must be of {', '.join(sorted(there))}; got {', '.join(unknown)}"
            )
        self.require_some("seeds", "seed")
        if TUNING_SEED in self.seeds:
            raise ValueError(f"--seeds must not hold {TUNING_SEED}, which chooses the settings")


def _adapted(network: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings for LeNet300 as those for a network."""
    replaced = TASKS[network].replaced
    return {name: replaced.get(name, {}).get(value, value) for name, value in settings.items()}
