"""``python -m experiments.deploy RUN...``: shrink, export, measure, report."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import jax

from experiments.common import cli
from experiments.deploy import report
from experiments.deploy.config import Config, Dispatch, check
from experiments.deploy.figures import draw
from experiments.deploy.measure import measure
from sparsejax.training import write_json


def main(config: Config, command: str) -> None:
    """Measure every run under each way of calling programs, then write the report."""
    check(config)
    results = config.results or config.output / "results"
    results.mkdir(parents=True, exist_ok=True)
    if config.dispatch == "both":
        measured = {dispatch: _in_a_process(config, dispatch) for dispatch in get_args(Dispatch)}
    else:
        # Before anything runs: it decides how the processor's client is made.
        asynchronous = config.dispatch == "asynchronous"
        jax.config.update("jax_cpu_enable_async_dispatch", asynchronous)
        rows = [measure(config, run) for run in config.runs]
        write_json(_file(config, config.dispatch), rows)
        measured = {config.dispatch: rows}
    rows = report.table_rows(measured)
    table = report.write(results, command, rows)
    cli.announce(results, table, draw(results, rows))


def _in_a_process(config: Config, dispatch: Dispatch) -> list[dict[str, Any]]:
    flags: list[Any] = [
        "--dispatch", dispatch, "--member", config.member, "--batch-size", config.batch_size,
        "--rounds", config.rounds, "--output", config.output,
    ]  # fmt: skip
    for name in ("round", "data_dir"):
        if (given := getattr(config, name)) is not None:
            flags += [f"--{name.replace('_', '-')}", given]
    if config.kinds is not None:
        flags += ["--kinds", *config.kinds]
    print(f"{dispatch} dispatch", flush=True)
    program = [sys.executable, "-m", "experiments.deploy", *config.runs, *flags]
    done = subprocess.run([str(part) for part in program], stdout=subprocess.DEVNULL)
    if done.returncode:
        raise ValueError(f"--dispatch {dispatch} did not run through; see above")
    return json.loads(_file(config, dispatch).read_text())


def _file(config: Config, dispatch: str) -> Path:
    return config.output / f"measured_{dispatch}.json"


if __name__ == "__main__":
    cli.run(Config, "experiments.deploy", main)
