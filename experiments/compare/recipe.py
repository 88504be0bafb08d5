"""Tune every method alike on validation images, train it with every budget and seed, time it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from flax import nnx

from experiments.common.merge import Planned
from experiments.common.runner import Recipe
from experiments.compare import report, rows
from experiments.compare.compared_run import ComparedRun
from experiments.compare.config import TASKS, TUNING_SEED, Config, Network
from experiments.compare.methods import Name
from experiments.compare.timed_run import TimedRun, part
from experiments.data import Dataset, load

Chosen: TypeAlias = dict[tuple[Network, Name], Mapping[str, Any]]
"""The settings of a method on a network."""


def plan(config: Config) -> Iterator[ComparedRun]:
    """Yield each method's candidates, then all runs, seed by seed, then those that are timed."""
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
            if (network, method) in chosen or config.time_only:
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
    for (row, settings, seed), folder in _trained(config, chosen):
        dataset = datasets[TASKS[settings["network"]].dataset]
        yield _run(row, folder, settings, seed, config.resume, dataset)
    for (row, settings, number), folder in _timed(config, chosen):
        dataset = datasets[TASKS[settings["network"]].dataset]
        few = part(dataset, settings["image_share"], config.batch_size)
        yield _run(row, folder, settings, number, config.resume, few, TimedRun)


def _planned(config: Config, chosen: Chosen) -> Iterator[tuple[Planned, Path]]:
    """Yield the runs whose settings are chosen, each with its folder; those that are timed last."""
    yield from _trained(config, chosen)
    yield from _timed(config, chosen)


def _timed(config: Config, chosen: Chosen) -> Iterator[tuple[Planned, Path]]:
    """Yield the runs that measure times, in rounds in which the methods take turns."""
    for number, network in itertools.product(range(config.rounds()), config.networks()):
        for method in config.methods():
            if (network, method) in chosen:
                settings = config.timed_settings(network, method, chosen[network, method])
                folder = config.folder / network / method / "timing" / f"round_{number}"
                yield Planned(f"{network}_{method}_timing", settings, number), folder


def _trained(config: Config, chosen: Chosen) -> Iterator[tuple[Planned, Path]]:
    """Yield the runs whose errors are reported."""
    for network in () if config.tune_only or config.time_only else config.networks():
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
    there = config.earlier_rows()
    return {(row["network"], row["method"]): row["chosen"] for row in there if row.get("chosen")}


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
    row: str,
    folder: Path,
    settings: Mapping[str, Any],
    seed: int,
    resume: bool,
    dataset: Dataset,
    kind: type[ComparedRun] = ComparedRun,
) -> ComparedRun:
    model = TASKS[settings["network"]].model(rngs=nnx.Rngs(seed))
    return kind(row, folder, settings, seed, resume, dataset, model)


RECIPE = Recipe(Config, plan, rows.rows, report.parts, report.figures, per_seed=rows.PER_SEED)
