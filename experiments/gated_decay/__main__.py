"""``python -m experiments.gated_decay``: train, prune while accurate, fine-tune, report."""

from __future__ import annotations

import functools
from pathlib import Path

from flax import nnx

from experiments.common import cli
from experiments.data import DataError, load
from experiments.gated_decay import report
from experiments.gated_decay.config import Config, Row, check
from experiments.gated_decay.figures import draw
from experiments.gated_decay.tasks import LeNet5Task, Task, VGG16Task
from experiments.gated_decay.train import Run
from sparsejax.models import LeNet5


def main(config: Config, command: str) -> None:
    """Make the rows asked for, then the report and the figures."""
    check(config)
    results = config.results or config.output / "results"
    planned = plan(config)
    for number in range(len(config.seeds)):
        for runs in planned.values():
            _make(runs[number])
    rows = report.table_rows(config, planned)
    results.mkdir(parents=True, exist_ok=True)
    table = report.write(results, command, rows)
    pictures = draw(results, planned)
    cli.announce(results, table, pictures)


def plan(config: Config) -> dict[str, list[Run]]:
    """The runs of each row, one of each seed; those that compress take over the pruned network."""
    planned: dict[str, list[Run]] = {}
    for row in config.rows():
        make_task = _task_maker(config, row)
        for seed in config.seeds:
            folder = config.output / row / f"seed_{seed}"
            new = functools.partial(
                Run,
                make_task=functools.partial(make_task, seed),
                seed=seed,
                resume=config.resume,
            )
            pruned = new(folder=folder, settings=config.settings(row))
            planned.setdefault(row, []).append(pruned)
            for kappa in config.kappas(row):
                settings, into = config.settings(row, kappa), folder / f"kappa_{kappa}"
                compressed = new(folder=into, settings=settings, pruned=pruned)
                planned.setdefault(f"{row}_{kappa}", []).append(compressed)
            for at_least in config.earlier:
                settings = config.settings(row, at_least=at_least)
                sooner = new(folder=folder / f"at_least_{at_least}", settings=settings)
                planned.setdefault(f"{row}_{at_least}", []).append(sooner)
    return planned


def _task_maker(config: Config, row: Row):
    """``seed -> Task``."""
    settings = config.settings(row)
    if row == "imagenet2012":
        if config.data_dir is None:
            raise DataError("--data-dir must name the folder in which TFDS has prepared ImageNet")
        folder: Path = config.data_dir

        def make(seed: int) -> Task:
            return VGG16Task(folder, settings, seed)

        return make
    dataset = load(row, config.data_dir)
    return lambda seed: LeNet5Task(dataset, settings, LeNet5(rngs=nnx.Rngs(seed)))


def _make(run: Run) -> None:
    """Train ``run`` unless it has ended and may be resumed, and say what came of it."""
    result, how = run.ensure()
    print(
        f"{run.title}: test accuracy {100 - result['test_error']:.2f} %, "
        f"{result['nonzeros']:,} parameters left (sparsity {1 - result['density']:.2%}) after "
        f"{result['prunings']} prunings ({how})",
        flush=True,
    )


if __name__ == "__main__":
    cli.run(Config, "experiments.gated_decay", main)
