"""Tune every method alike on the validation images; then train it with every budget and seed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from flax import nnx

from experiments.common.merge import Planned
from experiments.common.runner import Recipe
from experiments.compare import report
from experiments.compare.config import TASKS, TUNING_SEED, Config, Network
from experiments.compare.methods import METHODS, Name
from experiments.compare.trainer import Trainer
from experiments.data import Dataset, load
from sparsejax import inspection
from sparsejax.training import TrainingDivergedError

Chosen: TypeAlias = dict[tuple[Network, Name], Mapping[str, Any]]
"""The settings of a method on a network."""


class ComparedRun(Trainer):
    """A method with one budget and seed. No test error is computed of one that chooses settings."""

    @property
    def tuning(self) -> bool:
        """Whether it is one of the runs that choose settings."""
        return self.seed == TUNING_SEED

    @property
    def title(self) -> str:
        """Its network, method, budget and seed."""
        settings = self.settings
        what = f"{settings['network']} {settings['method']} {settings['kept_percent']} %"
        return f"{what}{' tuning' if self.tuning else f' seed {self.seed}'}"

    def headline(self, result: Mapping[str, Any]) -> str:
        """The validation error alone."""
        if "diverged" in result:
            return f"diverged ({result['diverged']})"
        return f"validation error {result['validation_error']:.2f} %, {result['nonzeros']:,} left"

    def done(self) -> bool:
        """See `Run.done`; a run that diverged has ended, too, without a network."""
        file = self.folder / "result.json"
        if file.exists() and "diverged" in (result := self.result()):
            return bool(result["settings"] == self.settings)
        return super().done()

    def train(self) -> tuple[dict[str, Any], Any]:
        """Train; where the loss or a parameter is not finite any more, that is the result."""
        about = {
            "model": TASKS[self.settings["network"]].name,
            "dataset": self.dataset.name,
            "name": self.row,
        }
        try:
            result, params = self.trained()
        except TrainingDivergedError as error:
            reason = str(error).partition(";")[0]
            seconds = sum(row["seconds"] for row in self.phases().values())
            return about | {"diverged": reason, "seconds": seconds}, None
        return about | result, params

    def phases(self) -> dict[str, dict[str, float]]:
        """The last row of the metrics of each phase."""
        return {
            folder.name: rows[-1]
            for folder in sorted(self.folder.iterdir())
            if folder.is_dir() and (rows := self.metrics(folder.name))
        }

    def trained(self) -> tuple[dict[str, Any], Any]:
        """Search, prune what is above the budget, and fine-tune for the rest of the epochs."""
        method = METHODS[self.settings["method"]]
        share = self.settings.get("search_share", method.search_share)
        epochs = self.share(share)
        found = method.search(self, epochs)
        left = inspection.report(found).nonzeros
        params = self.project(found)
        if epochs < self.epochs:
            rate = self.settings["rate"]
            params = self.fine_tune("fine_tune", params, rate, self.epochs - epochs)
        phases = self.phases()
        result = {
            "network": {"model": TASKS[self.settings["network"]].name},
            "validation_error": self.error(params, "validation"),
            "kept": self.kept,
            "nonzeros": inspection.report(params).nonzeros,
            "nonzeros_after_search": left,
            "epochs": sum(row["epoch"] for row in phases.values()),
            "seconds": sum(row["seconds"] for row in phases.values()),
        }
        if not self.tuning:
            result["test_error"] = self.error(params, "test")
        return result, params


def plan(config: Config) -> Iterator[ComparedRun]:
    """Yield, for each network, the candidates of every method, then all runs, seed by seed."""
    chosen = chosen_before(config)
    for network, method in itertools.product(config.networks(), config.methods()):
        if len(only := config.candidates(network, method)) == 1:  # there is nothing to choose
            chosen.setdefault((network, method), only[0])
    config.check_planned(run for run, _ in _planned(config, chosen))
    datasets = {
        TASKS[n].dataset: load(TASKS[n].dataset, config.data_dir) for n in config.networks()
    }
    for network in config.networks():
        dataset = datasets[TASKS[network].dataset]
        for method in config.methods():
            if (network, method) in chosen:
                continue
            runs = list(candidates(config, network, method, dataset))
            for run, _ in runs:
                yield run
            if all(run.done() for run, _ in runs):
                found = [(run.result(), candidate) for run, candidate in runs]
                ended = [pair for pair in found if "diverged" not in pair[0]]
                if ended:
                    _, chosen[network, method] = min(
                        ended, key=lambda pair: pair[0]["validation_error"]
                    )
    config.check_planned(run for run, _ in _planned(config, chosen))
    for (row, settings, seed), folder in _planned(config, chosen):
        dataset = datasets[TASKS[settings["network"]].dataset]
        yield _run(row, folder, settings, seed, config.resume, dataset)


def _planned(config: Config, chosen: Chosen) -> Iterator[tuple[Planned, Path]]:
    """Yield the runs whose settings are chosen, each with its folder."""
    for network in () if config.tune_only else config.networks():
        for seed in config.seeds:
            for method in config.methods():
                if (network, method) not in chosen:  # --partial, or all candidates diverged
                    continue
                for budget in ("100",) if method == "dense" else config.budgets(network):
                    settings = config.settings(network, method, budget, chosen[network, method])
                    folder = config.folder / network / method / f"kept_{budget}" / f"seed_{seed}"
                    yield Planned(f"{network}_{method}_{budget}", settings, seed), folder


def chosen_before(config: Config) -> Chosen:
    """The settings that were chosen for the report that ``--add`` adds to."""
    rows = config.earlier_rows()
    return {(row["network"], row["method"]): row["chosen"] for row in rows if row.get("chosen")}


def candidates(
    config: Config, network: Network, method: Name, dataset: Dataset
) -> Iterator[tuple[ComparedRun, Mapping[str, Any]]]:
    """The runs that choose the settings of a method, each with its candidate."""
    task = TASKS[network]
    budget = "100" if method == "dense" else task.tuned_at
    for number, candidate in enumerate(config.candidates(network, method)):
        settings = config.settings(network, method, budget, candidate, tuning=True)
        folder = config.folder / network / method / "tuning" / f"candidate_{number}"
        row = f"{network}_{method}_tuning"
        yield _run(row, folder, settings, TUNING_SEED, config.resume, dataset), candidate


def _run(
    row: str, folder: Path, settings: Mapping[str, Any], seed: int, resume: bool, dataset: Dataset
) -> ComparedRun:
    model = TASKS[settings["network"]].model(rngs=nnx.Rngs(seed))
    return ComparedRun(row, folder, settings, seed, resume, dataset, model)


RECIPE = Recipe(Config, plan, report.rows, report.parts, report.figures, per_seed=report.FIELDS)
