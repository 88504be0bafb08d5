"""``python -m experiments.constrained_l0``: train under constraints, purge, report."""

from __future__ import annotations

import math
from pathlib import Path

from experiments.common import cli
from experiments.constrained_l0 import report
from experiments.constrained_l0.config import PRESETS, SOUGHT, Config, Row, check
from experiments.constrained_l0.figures import draw
from experiments.constrained_l0.train import Run
from experiments.data import Dataset, load


def main(config: Config, command: str) -> None:
    """Make the rows asked for, then the report and the figures."""
    check(config)
    results = config.results or config.output / "results"
    dataset = load("mnist", config.data_dir)
    # All are made before any is trained, so that a target that nothing can satisfy is seen at once.
    of_rows = {row: planned(config, dataset, row) for row in config.rows()}
    for number in range(len(config.seeds)):
        for runs in of_rows.values():
            for of_seeds in runs:
                if number < len(of_seeds):
                    _make(of_seeds[number])
    ended = {row: [run for runs in of_row for run in runs] for row, of_row in of_rows.items()}
    if "bisection" in config.rows():
        ended["bisection"] = _bisection(config, dataset)
    rows = report.table_rows(config, ended)
    results.mkdir(parents=True, exist_ok=True)
    table = report.write(results, command, rows)
    pictures = draw(results, ended)
    cli.announce(results, table, pictures)


def planned(config: Config, dataset: Dataset, row: Row) -> list[list[Run]]:
    """The runs of a row: for each variant, one of each seed."""
    variants: list[tuple[Path, dict]] = [(config.output / row, config.settings(row))]
    if row == "bisection":
        return []
    if row == "controllability":
        variants = [
            (config.output / row / f"target_{target:g}", config.settings(row, target=target))
            for target in config.controlled()
        ]
    return [
        [
            Run(folder / f"seed_{seed}", dataset, settings, seed, config.resume)
            for seed in config.seeds_of(row)
        ]
        for folder, settings in variants
    ]


def _bisection(config: Config, dataset: Dataset) -> list[Run]:
    """Penalised runs, each of a penalty halfway (in its logarithm), until one has the density."""
    low, high = SOUGHT["lowest"], SOUGHT["highest"]
    runs: list[Run] = []
    for _ in range(PRESETS[config.preset].bisection_runs):
        penalty = float(f"{math.sqrt(low * high):.4g}")
        (seed,) = config.seeds_of("bisection")
        folder = config.output / "bisection" / f"penalty_{penalty:g}" / f"seed_{seed}"
        settings = config.settings("bisection", penalty=penalty)
        runs.append(Run(folder, dataset, settings, seed, config.resume))
        _make(runs[-1])
        excess = runs[-1].result()["expected_density"] - SOUGHT["target"]
        if abs(excess) <= SOUGHT["tolerance"]:
            break
        low, high = (penalty, high) if excess > 0 else (low, penalty)
    return runs


def _make(run: Run) -> None:
    """Train ``run`` unless it has ended and may be resumed, and say what came of it."""
    result, how = run.ensure()
    units = "-".join(map(str, result["architecture"]))
    print(
        f"{run.title}: test error {result['test_error']:.2f} % (best epoch "
        f"{result['best_test_error']:.2f} %), expected density {result['expected_density']:.2%}, "
        f"{units}, {result['macs']:,} MACs ({how})",
        flush=True,
    )


if __name__ == "__main__":
    cli.run(Config, "experiments.constrained_l0", main)
