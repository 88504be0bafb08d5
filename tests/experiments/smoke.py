"""Experiments in this process, on a part of the real data."""

import contextlib
import io
import json
import sys

import jax
import pytest
from matplotlib.figure import Figure

from experiments.common import saved_runs
from experiments.common.runner import command_line, main
from experiments.data import Dataset, Split


def part(dataset, train=2500, others=500):
    """The first images of each split."""
    sizes = {"train": train, "validation": others, "test": others}
    splits = {
        name: Split(*(array[:size] for array in getattr(dataset, name)))
        for name, size in sizes.items()
    }
    return Dataset(dataset.name, **splits)


@contextlib.contextmanager
def loading(module, dataset):
    """``module`` loads ``dataset``, whatever it asks for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load", lambda name, data_dir=None, **options: dataset)
        yield


def run(recipe, module, dataset, config, drawn=True):
    """Run an experiment; return what it printed and the rows of its report.

    Unless ``drawn``, the figures are made but not rendered, which takes longer than some runs.
    """
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, loading(module, dataset):
        if not drawn:
            patch.setattr(Figure, "savefig", lambda self, path, **options: path.touch())
        with contextlib.redirect_stdout(printed):
            main(recipe, config, "python -m a.command")
    report = json.loads((config.report_folder / "report.json").read_text())
    assert report["experiment"] == config.experiment
    assert report["command"] == "python -m a.command"
    return printed.getvalue(), report["rows"]


def results(folder):
    """The results and networks of all runs in a folder, without the times."""
    found = {}
    for file in sorted(folder.glob("**/result.json")):
        result = json.loads(file.read_text())
        network = file.with_name("network.safetensors")
        found[str(file.relative_to(folder))] = (
            {name: value for name, value in result.items() if name not in ("seconds", "finished")},
            network.read_bytes() if network.exists() else None,
        )
    return found


def check_readable(folder, dataset, **which):
    """Read a run as experiments.deploy does: the network has the error that its run wrote down."""
    with loading(saved_runs, dataset):
        finished = saved_runs.read(folder, None, which.get("round"), which.get("member", 0))
    found = saved_runs.error(finished, jax.jit(finished.network))
    # Another program has other last bits: an image in doubt may go either way.
    of_an_image = 100 / len(dataset.test.labels)
    assert found == pytest.approx(finished.result["test_error"], abs=1.5 * of_an_image)
    return finished


def parsed(config_type, *flags):
    """The configuration of a command line; SystemExit where it has an unknown flag."""
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["program", *map(str, flags)])
        command_line(config_type, "a.module", lambda config, command: found.append(config))
    return found[0]
