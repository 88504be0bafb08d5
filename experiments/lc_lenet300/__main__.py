"""``python -m experiments.lc_lenet300``: train, compress, report."""

from __future__ import annotations

from experiments.common import cli
from experiments.data import load
from experiments.lc_lenet300 import report
from experiments.lc_lenet300.config import ROWS, Config, Row, is_reference
from experiments.lc_lenet300.figures import draw
from experiments.lc_lenet300.train import Run


def main(config: Config, command: str) -> None:
    """Make the rows asked for, then the report and the figures."""
    results = config.results or config.output / "results"
    dataset = load("mnist", config.data_dir)
    wanted = config.rows()
    needed = {row if is_reference(row) else config.reference_of(row) for row in wanted}
    ended: dict[Row, list[Run]] = {}
    for seed in config.seeds:
        references = {row: Run(config, dataset, row, seed) for row in ROWS if row in needed}
        for reference in references.values():
            _make(reference, None, ended)
        for row in wanted:
            if not is_reference(row):
                reference = references[config.reference_of(row)]
                _make(Run(config, dataset, row, seed), reference.network(), ended)
    in_order = {row: ended[row] for row in wanted}
    rows = report.table_rows(in_order)
    results.mkdir(parents=True, exist_ok=True)
    table = report.write(results, command, rows)
    pictures = draw(results, {row: ended[row] for row in ROWS if row in ended})
    cli.announce(results, table, pictures)


def _make(run: Run, reference, ended: dict[Row, list[Run]]) -> None:
    """Train ``run`` unless it has ended and the configuration says to resume."""
    if run.config.resume and run.done() and run.result()["settings"] == run.settings:
        result, how = run.result(), "already there"
    else:
        result = run.train(reference)
        how = f"{result['seconds']:.0f} s"
    units = "-".join(map(str, result["live_units"]))
    print(
        f"{run.row} seed {run.seed}: test error {result['test_error']:.2f} %, "
        f"{result['nonzeros']:,} weights ({result['density']:.2%}), units {units} ({how})",
        flush=True,
    )
    ended.setdefault(run.row, []).append(run)


if __name__ == "__main__":
    cli.run(Config, "experiments.lc_lenet300", main)
