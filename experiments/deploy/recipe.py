"""Finished networks: their sizes, and their speeds under each way of calling programs."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import jax
import numpy as np

from experiments.common.report import Row, summary
from experiments.common.runner import Recipe
from experiments.common.saved_runs import Finished, error, read
from experiments.deploy import report
from experiments.deploy.config import Config, Dispatch
from experiments.deploy.forms import DENSE, Form, files, forms
from experiments.deploy.timing import interleaved
from sparsejax import deploy, inspection
from sparsejax.training import write_json


class Measurement:
    """All runs measured under one way of calling programs; kept in a file."""

    def __init__(self, config: Config, dispatch: Dispatch):
        self.row, self._config = dispatch, config
        self._file = config.folder / f"measured_{dispatch}.json"

    def ensure(self) -> str:
        """Measure in this process, or, if both ways are asked for, in one of its own."""
        if self._config.dispatch == "both":
            self._in_a_process()
        else:
            # Before anything runs: it decides how the processor's client is made.
            asynchronous = self.row == "asynchronous"
            jax.config.update("jax_cpu_enable_async_dispatch", asynchronous)
            write_json(self._file, [measure(self._config, run) for run in self._config.runs])
        return f"{self.row} dispatch: measured"

    def reportable(self) -> bool:
        """Whether it has been measured."""
        return self._file.exists()

    def result(self) -> list[dict[str, Any]]:
        """A row for each run."""
        rows: list[dict[str, Any]] = json.loads(self._file.read_text())
        return rows

    def _in_a_process(self) -> None:
        config = self._config
        flags: list[Any] = ["--dispatch", self.row, "--output", config.folder]
        for name in ("member", "batch_size", "repeats", "round", "data_dir"):
            if (given := getattr(config, name)) is not None:
                flags += [f"--{name.replace('_', '-')}", given]
        if config.kinds is not None:
            flags += ["--kinds", *config.kinds]
        program = [sys.executable, "-m", "experiments.deploy", *config.runs, *flags]
        done = subprocess.run([str(part) for part in program], stdout=subprocess.DEVNULL)
        if done.returncode:
            raise ValueError(f"--dispatch {self.row} did not run through; see above")


def measure(config: Config, run: Path) -> dict[str, Any]:
    """The row of a run; times of the forms as they are under JAX's present settings."""
    finished = read(run, config.data_dir, config.round, config.member)
    folder = config.folder / finished.name
    folder.mkdir(parents=True, exist_ok=True)
    row = _sizes(finished, folder)
    print(f"{finished.name}: {row['nonzeros']:,} of {row['parameters']:,} weights", flush=True)
    found: dict[str, dict[str, Any]] = {}
    for batch, field in ((1, "latency"), (config.batch_size, "batch")):
        made, row["missing"] = forms(finished, batch, folder, config.kinds)
        images = finished.prepare(finished.dataset.test.images[:batch])
        placed = {name: form.place(images) for name, form in made.items()}
        calls = {name: functools.partial(form.run, placed[name]) for name, form in made.items()}
        seconds = interleaved(calls, config.repeats)
        expected = np.asarray(calls[DENSE]())
        for name, form in made.items():
            difference = np.abs(np.asarray(calls[name]()) - expected).max() / np.abs(expected).max()
            entry = found.setdefault(name, {"form": name, "difference": 0.0})
            entry["difference"] = max(entry["difference"], float(difference))
            entry[f"{field}_seconds"] = seconds[name]
            if form.kinds is not None:
                entry[f"{field}_kinds"] = form.kinds
            if form.file:
                entry["file_bytes"] = form.file.stat().st_size
    for name, form in made.items():
        found[name]["test_error"] = error(finished, _from_images(form))
    row["batch_size"] = config.batch_size
    row["test_error"] = summary([found[DENSE]["test_error"]])
    return row | {"forms": list(found.values())}


def _from_images(form: Form) -> Callable[[np.ndarray], Any]:
    return lambda images: form.run(form.place(images))


def _sizes(finished: Finished, folder: Path) -> dict[str, Any]:
    """Its size in memory and on disk."""
    images = finished.prepare(finished.dataset.test.images[:1])
    example = jax.ShapeDtypeStruct(images.shape, np.float32)
    function, params = finished.network.function, finished.network.params
    small = deploy.shrink(finished.network, example, keep_unsupported=True)
    leaves, logits = jax.tree.leaves(params), jax.jit(function)
    size, nonzeros = sum(leaf.size for leaf in leaves), sum(int((x != 0).sum()) for x in leaves)
    rows = [
        {
            "file": name,
            "bytes": path.stat().st_size,
            "test_error": error(finished, functools.partial(logits, loaded)),
        }
        for name, (path, loaded) in files(finished, folder).items()
    ]
    return {
        "name": finished.name,
        "model": finished.result["model"],
        "dataset": finished.result["dataset"],
        "seeds": [finished.result["seed"]],
        "parameters": size,
        "nonzeros": nonzeros,
        "density": nonzeros / size,
        "shrunk_parameters": sum(leaf.size for leaf in jax.tree.leaves(small.params)),
        "macs": inspection.macs(function, params, example),
        "shrunk_macs": inspection.macs(small.function, small.params, example),
        "file_bytes": next(r["bytes"] for r in rows if r["file"] == "sparse, exact float32"),
        "files": rows,
    }


def plan(config: Config) -> Iterator[Measurement]:
    """A measurement for each way of calling programs."""
    config.folder.mkdir(parents=True, exist_ok=True)
    chosen = get_args(Dispatch) if config.dispatch == "both" else (config.dispatch,)
    for dispatch in chosen:
        yield Measurement(config, dispatch)


def rows(config: Config, ended: Mapping[str, Sequence[Measurement]], command: str) -> list[Row]:
    """The rows of report.json."""
    del config, command
    return report.rows({dispatch: measured.result() for dispatch, (measured,) in ended.items()})


RECIPE = Recipe(Config, plan, rows, report.parts, report.figures)
