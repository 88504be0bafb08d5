"""The common runner, on an experiment that takes no time."""

import dataclasses
import json
import os
import re
import subprocess
import sys
import weakref
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from matplotlib.figure import Figure

from experiments.common import runner
from experiments.common.report import MadeBy, Table, aggregate, error, write_report
from experiments.common.runner import AddingConfig, Recipe, Run, command_line, draw, main, rewrite
from experiments.common.runner import Config as CommonConfig
from sparsejax.training import Batches, Callback, init_state, make_step
from tests.compilation import environment_for_commands
from tests.reference import live_bytes

pytestmark = pytest.mark.usefixtures("quick_collection")

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(64, 3)).astype(np.float32)
LABELS = IMAGES @ np.array([1.0, -2.0, 3.0], np.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(CommonConfig):
    """A toy."""

    experiment = "toy"

    method: tuple[str, ...] = ("sgd", "adam")
    """Rows of the table."""
    seeds: tuple[int, ...] = (0, 1)
    """One run for each."""
    learning_rate: float = 0.1
    """Learning rate of either."""

    def check(self):
        self.require("positive", lambda x: x > 0, "learning_rate")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AddingToy(Config, AddingConfig):
    """A toy whose report can be made in pieces."""


def ranked(rows):
    errors = sorted(row["test_error"]["mean"] for row in rows)
    return [row | {"place": errors.index(row["test_error"]["mean"])} for row in rows]


class ToyRun(Run):
    killed_at = None
    """A step at which it dies."""
    die = None
    """How it does."""

    def train(self):
        optimizer = {"sgd": optax.sgd, "adam": optax.adam}[self.row](self.settings["rate"])

        def loss(params, batch, key):
            noise = jax.random.normal(key, batch["label"].shape)  # the key counts, too
            residual = batch["image"] @ params["kernel"] - batch["label"] + 0.1 * noise
            return (residual**2).mean(), {}

        def evaluate(state):
            if self.killed_at == int(state.step):
                self.die()
            return {"error": float(jnp.abs(state.params["kernel"]).sum())}

        params = {"kernel": jax.random.normal(jax.random.key(self.seed), (3,))}
        state = self.fit(
            make_step(loss, optimizer),
            init_state(params, optimizer, jax.random.key(self.seed)),
            Batches({"image": IMAGES, "label": LABELS}, 8, self.seed),
            steps=24,
            evaluate=evaluate,
            report_every=4,
            checkpoint_every=8,
        )
        result = {"seconds": self.metrics()[-1]["seconds"]}
        final = float(jnp.abs(state.params["kernel"]).sum())
        return result | {"test_error": final, "validation_error": final}, state.params


def plan(config):
    runs = []
    for seed in config.seeds:
        for method in config.method:
            folder = config.folder / method / f"seed_{seed}"
            settings = {"row": method, "rate": config.learning_rate}
            runs.append(ToyRun(method, folder, settings, seed, config.resume))
    if isinstance(config, AddingConfig):
        config.check_planned(run.planned for run in runs)
    yield from runs


def rows(config, ended, command):
    del config
    return [
        {"name": name, "command": command, "seeds": [run.seed for run in runs]}
        | {"settings": {"rate": runs[0].settings["rate"]}}
        | aggregate([run.result() for run in runs], ("seconds",))
        for name, runs in ended.items()
    ]


def report(rows):
    columns = (("row", lambda row: row["name"]), ("error", lambda row: error(row["test_error"])))
    hidden = (("hidden", lambda row: row["name"]),)
    return ["# Toy", Table(columns, rows), MadeBy(), Table(hidden, rows, on_screen=False)]


def figures(rows, ended):
    figure = Figure()
    figure.subplots().bar(
        [row["name"] for row in rows], [row["test_error"]["mean"] for row in rows]
    )
    drawn = {"bars.png": figure}
    if ended:
        drawn["runs.png"] = lambda path: path.write_text(",".join(ended))
    return drawn


RECIPE = Recipe(Config, plan, rows, report, figures)


def final_bits(folder):
    """All that the runs of a folder ended with, without the times."""
    found = {}
    for run in sorted(folder.glob("*/seed_*")):
        result = json.loads((run / "result.json").read_text())
        metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for entry in (result, *metrics):
            entry.pop("seconds")
        result.pop("finished")
        network = (run / "network.safetensors").read_bytes()
        found[f"{run.parent.name}/{run.name}"] = result, metrics, network
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    config = Config(output=tmp_path_factory.mktemp("toy") / "run")
    main(RECIPE, config, "first")
    return config


def test_a_report_can_be_made_in_pieces(finished, tmp_path):
    """The pieces give the rows that one run gives, and the report names the commands of all."""
    recipe = dataclasses.replace(RECIPE, config=AddingToy, per_seed=("seconds",), relate=ranked)
    pieces = {"one": ((0,), ("sgd",)), "two": ((1,), ("sgd", "adam")), "three": ((0,), ("adam",))}
    results = tmp_path / "report"
    for name, (seeds, methods) in pieces.items():
        folder = tmp_path / name
        config = AddingToy(output=folder, results=results, seeds=seeds, method=methods, add=True)
        main(recipe, config, name)

    def numbers(folder):
        rows = json.loads((folder / "report.json").read_text())["rows"]
        return [(row["name"], row["seeds"], row["test_error"]) for row in rows]

    assert numbers(results) == numbers(finished.report_folder)
    rows = json.loads((results / "report.json").read_text())["rows"]
    assert sorted(row["place"] for row in rows) == [0, 1]
    text = (results / "report.md").read_text()
    assert [text.count(f"Made by `{name}` on") for name in pieces] == [1, 1, 1]
    config = dataclasses.replace(
        config, learning_rate=0.3, method=("sgd",), output=tmp_path / "four"
    )
    with pytest.raises(ValueError, match="--add: sgd was made with other settings"):
        main(recipe, config, "four")
    assert (results / "report.md").read_text() == text
    assert not config.folder.exists()  # nothing was trained
    main(recipe, dataclasses.replace(config, seeds=(0, 1)), "all seeds of it again")
    assert json.loads((results / "report.json").read_text())["rows"][0]["settings"]["rate"] == 0.3
    write_report(results, "compare", "of another experiment", [])
    with pytest.raises(ValueError, match="--results must hold a report of toy; .* one of compare"):
        main(recipe, config, "five")


def test_the_report_that_is_added_to_is_read_once(tmp_path):
    """All checks see the rows that the new ones are merged into."""
    config = AddingToy(output=tmp_path, add=True)
    names = lambda config: [row["name"] for row in config.earlier_rows()]  # noqa: E731
    write_report(config.report_folder, "toy", "first", [{"name": "sgd"}])
    assert names(config) == ["sgd"]
    write_report(config.report_folder, "toy", "second", [{"name": "sgd"}, {"name": "adam"}])
    assert names(config) == ["sgd"]
    assert names(dataclasses.replace(config)) == ["sgd", "adam"]


def test_what_has_ended_is_added_whatever_else_is_planned(finished, tmp_path, capsys):
    """With --partial a row of which nothing has ended is none of the new ones."""
    recipe = dataclasses.replace(RECIPE, config=AddingToy, per_seed=("seconds",))
    results, folder = tmp_path / "report", tmp_path / "run"
    main(recipe, AddingToy(output=folder, results=results, method=("sgd",), seeds=(0,)), "first")
    other = AddingToy(output=tmp_path / "more", results=results, learning_rate=0.3, seeds=(1,))
    main(recipe, dataclasses.replace(other, method=("adam",), results=None), "second")
    main(recipe, dataclasses.replace(other, add=True, partial=True), "third")
    rows = json.loads((results / "report.json").read_text())["rows"]
    assert [(row["name"], row["settings"]) for row in rows] == [
        ("sgd", {"rate": 0.1}),
        ("adam", {"rate": 0.3}),
    ]
    capsys.readouterr()


class LargeRun(Run):
    """A run whose caller keeps what it starts from."""

    size = 4 * 250_000
    most = 0

    def train(self):
        before = live_bytes()
        optimizer = optax.adam(0.1)
        state = init_state({"kernel": jnp.ones(self.size // 4)}, optimizer, jax.random.key(0))

        def measured(step, state, metrics):
            self.most = max(self.most, live_bytes() - before)

        final = self.fit(
            make_step(lambda params, batch, key: ((params["kernel"] ** 2).mean(), {}), optimizer),
            state,
            Batches({"image": IMAGES}, 8),
            steps=2,
            callbacks=[Callback(measured, 1)],
        )
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
        return {"seconds": 0.0, "test_error": 0.0}, final.params


def test_a_state_is_held_once_while_it_trains(tmp_path, capsys):
    run = LargeRun("large", tmp_path, {}, 0, False)
    run.ensure()
    assert 3 * run.size <= run.most < 3.3 * run.size
    capsys.readouterr()


class ShortRun(Run):
    """A run without `fit`."""

    def train(self):
        kernel = np.ones(3, np.float32)
        self.kernel = weakref.ref(kernel)
        return {"seconds": 0.0, "test_error": 0.0}, {"kernel": kernel}


def test_memory_is_given_back_when_a_run_has_ended(tmp_path, monkeypatch):
    run = ShortRun("short", tmp_path, {"row": "short"}, 0, False)
    gone = []
    monkeypatch.setattr(runner, "release_memory", lambda: gone.append(run.kernel() is None))
    run.ensure()
    assert gone == [True]


def test_numbers_of_a_table_stand_to_the_right():
    """A text in any line makes a column text."""
    lines = [("a", "1.77 ± 0.1 %", "", "SET"), ("b", "**-2 %**", "(none)", "3 rounds")]
    columns = [(f"c{n}", lambda line, n=n: line[n]) for n in range(4)]
    assert Table(columns, lines).markdown().split("\n")[1] == "| --- | ---: | ---: | --- |"
    assert Table(columns[:2], []).markdown() == "| c0 | c1 |\n| --- | ---: |"


def test_every_method_and_seed_ends_in_the_same_files(finished, capsys):
    names = {"sgd/seed_0", "adam/seed_0", "sgd/seed_1", "adam/seed_1"}
    assert final_bits(finished.folder).keys() == names
    result, metrics, _ = final_bits(finished.folder)["sgd/seed_1"]
    assert result["settings"] == {"row": "sgd", "rate": 0.1, "seed": 1}
    assert [row["step"] for row in metrics] == [4, 8, 12, 16, 20, 24]
    (run,) = plan(dataclasses.replace(finished, method=("sgd",), seeds=(1,)))
    assert run.done()
    assert np.abs(run.network()["kernel"]).sum() == pytest.approx(result["test_error"])
    capsys.readouterr()


def test_writes_report_figures_and_tables(finished, capsys):
    main(RECIPE, dataclasses.replace(finished, resume=True), "second")
    printed = capsys.readouterr().out
    assert printed.count("(already there)") == 4
    assert re.search(r"^row +error\n-+ +-+\nsgd +\d", printed, re.MULTILINE)
    assert "hidden" not in printed
    folder = finished.folder / "results"
    held = json.loads((folder / "report.json").read_text())
    assert (held["experiment"], held["command"]) == ("toy", "second")
    assert {"jax", "optax", "flax", "python"} <= held["versions"].keys()
    assert held["machine"]["cores"] == len(os.sched_getaffinity(0))
    assert [row["name"] for row in held["rows"]] == ["sgd", "adam"]
    assert held["rows"][0]["seeds"] == [0, 1]
    values = held["rows"][0]["test_error"]["values"]
    assert held["rows"][0]["test_error"]["mean"] == pytest.approx(np.mean(values))
    text = (folder / "report.md").read_text()
    assert text.startswith("# Toy\n\n| row | error |\n| --- | ---: |\n| sgd | ")
    assert "Made by `second` on" in text
    assert "| hidden |" in text
    assert (folder / "runs.png").read_text() == "sgd,adam"
    assert (folder / "bars.png").read_bytes().startswith(b"\x89PNG")
    for name in ("report.md", "report.json", "bars.png", "runs.png"):
        assert f"wrote {folder / name}" in printed


def test_other_settings_are_not_mixed_in(finished):
    other = dataclasses.replace(finished, resume=True, learning_rate=0.2)
    with pytest.raises(ValueError, match=r"rate: 0.1 there, 0.2 here"):
        main(RECIPE, other, "")
    with pytest.raises(ValueError, match="already holds a run"):
        main(RECIPE, finished, "")
    with pytest.raises(ValueError, match="--learning-rate must be positive; got -1"):
        main(RECIPE, dataclasses.replace(finished, learning_rate=-1.0), "")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"seeds": (0, 1, 0)}, "--seeds must not name a value twice; got 0 again"),
        ({"seeds": (0, -1)}, r"--seeds must be in \[0, 2\*\*32\); got -1"),
        ({"seeds": ()}, "^there is nothing to report, since these flags ask for no run$"),
    ],
)
def test_seeds_are_checked_before_anything_is_trained(tmp_path, flags, message):
    with pytest.raises(ValueError, match=message):
        main(RECIPE, Config(output=tmp_path / "run", **flags), "")
    assert not (tmp_path / "run").exists()


def test_reports_what_has_ended_so_far(finished, tmp_path, capsys):
    config = Config(output=tmp_path / "run", partial=True)
    with pytest.raises(ValueError, match="--partial: nothing of these rows has ended in"):
        main(RECIPE, config, "")
    main(RECIPE, Config(output=tmp_path / "run", method=("adam",), seeds=(1,)), "")
    before = final_bits(tmp_path / "run")
    main(RECIPE, config, "")
    held = json.loads((tmp_path / "run" / "results" / "report.json").read_text())
    assert [(row["name"], row["seeds"]) for row in held["rows"]] == [("adam", [1])]
    assert final_bits(tmp_path / "run") == before
    assert before["adam/seed_1"] == final_bits(finished.folder)["adam/seed_1"]
    capsys.readouterr()


KILL = """
import sys
from pathlib import Path
from experiments.common.runner import main
from tests.experiments.common import test_runner as toy
toy.ToyRun.killed_at, toy.ToyRun.die = 12, lambda run: toy.os._exit(9)
main(toy.RECIPE, toy.adam(Path(sys.argv[1])), "")
"""


class Died(BaseException):
    """What ends a run in this process."""


def died(*given):
    raise Died


def adam(folder):
    return Config(output=folder, method=("adam",), seeds=(0,), resume=True)


def resumes_to_the_same_bits(folder, finished, capsys):
    assert not (folder / "adam/seed_0/result.json").exists()
    capsys.readouterr()
    main(RECIPE, adam(folder), "")
    expected = final_bits(finished.folder)["adam/seed_0"]
    assert final_bits(folder)["adam/seed_0"] == expected
    assert "(already there)" not in capsys.readouterr().out


def test_killed_between_two_checkpoints_it_resumes_to_the_same_bits(finished, tmp_path, capsys):
    environment = environment_for_commands() | {"PYTHONPATH": os.getcwd()}
    killed = subprocess.run(
        [sys.executable, "-c", KILL, tmp_path], env=environment, capture_output=True
    )
    assert killed.returncode == 9, killed.stderr.decode()
    assert len(list(tmp_path.glob("adam/seed_0/checkpoints/sums/*"))) == 1
    resumes_to_the_same_bits(tmp_path, finished, capsys)


@pytest.mark.parametrize("moment", ["before the first checkpoint", "before its result"])
def test_ended_at_a_fixed_point_it_resumes_to_the_same_bits(
    finished, tmp_path, moment, monkeypatch, capsys
):
    with monkeypatch.context() as patch:
        if moment == "before its result":  # the network is there
            patch.setattr(runner, "write_json", died)
        else:
            patch.setattr(ToyRun, "killed_at", 4)
            patch.setattr(ToyRun, "die", died)
        with pytest.raises(Died):
            main(RECIPE, adam(tmp_path), "")
    there = (tmp_path / "adam/seed_0/network.safetensors").exists()
    assert there == (moment == "before its result")
    assert there == any(tmp_path.glob("adam/seed_0/checkpoints/sums/*"))
    resumes_to_the_same_bits(tmp_path, finished, capsys)


def test_the_command_line_names_the_program_and_ends_in_one_line(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["toy", "--method", "sgd", "--learning-rate", "0.5"])
    found = []
    command_line(Config, "experiments.toy", lambda *given: found.append(given))
    ((config, command),) = found
    assert (config.method, config.learning_rate, config.seeds) == (("sgd",), 0.5, (0, 1))
    assert config.folder == Path("runs/toy")
    assert config.report_folder == Path("runs/toy/results")
    assert command == "python -m experiments.toy --method sgd --learning-rate 0.5"
    monkeypatch.setattr(sys, "argv", ["toy", "--learning-rate", "0", "--output", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        command_line(Config, "experiments.toy", lambda *given: main(RECIPE, *given))
    assert ended.value.code == "error: --learning-rate must be positive; got 0.0"

    def interrupted(*given):
        raise KeyboardInterrupt

    with pytest.raises(SystemExit, match="--resume goes on from the last checkpoint"):
        command_line(Config, "experiments.toy", interrupted)
    assert capsys.readouterr().out == ""


def test_a_report_is_written_anew_without_the_runs(finished, monkeypatch, tmp_path, capsys):
    folder = finished.folder / "results"
    held = (folder / "report.json").read_text()
    before = (folder / "report.md").read_text()
    (tmp_path / "report.json").write_text(held)
    monkeypatch.setitem(sys.modules, "experiments.toy.recipe", sys.modules[__name__])
    rewrite(tmp_path)
    assert (tmp_path / "report.md").read_text() == before
    assert (tmp_path / "report.json").read_text() == held
    assert (tmp_path / "bars.png").exists()
    assert not (tmp_path / "runs.png").exists()
    assert draw(tmp_path, {}) == []
    capsys.readouterr()
