"""``python -m experiments.gated_decay``: train, prune while accurate, fine-tune, report."""

from __future__ import annotations

from experiments.common import cli
from experiments.data import load
from experiments.gated_decay import report
from experiments.gated_decay.config import Config, Row, check
from experiments.gated_decay.figures import draw
from experiments.gated_decay.train import Run


def main(config: Config, command: str) -> None:
    """Make the rows asked for, then the report and the figures."""
    check(config)
    results = config.results or config.output / "results"
    ended = {row: planned(config, row) for row in config.rows()}
    for number in range(len(config.seeds)):
        for runs in ended.values():
            _make(runs[number])
    rows = report.table_rows(config, ended)
    results.mkdir(parents=True, exist_ok=True)
    table = report.write(results, command, rows)
    pictures = draw(results, ended)
    print(f"\n{table}\n")
    for path in (results / "report.md", results / "report.json", *pictures):
        print(f"wrote {path}")


def planned(config: Config, row: Row) -> list[Run]:
    """The runs of a row, one of each seed."""
    dataset = load(row, config.data_dir)
    folder, settings = config.output / row, config.settings(row)
    return [
        Run(folder / f"seed_{seed}", dataset, settings, seed, config.resume)
        for seed in config.seeds
    ]


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
