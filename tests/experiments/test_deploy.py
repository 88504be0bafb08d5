"""A finished network in all its forms."""

import importlib.util
import json

import numpy as np
import pytest

from experiments.common import saved_runs
from experiments.common.runner import end
from experiments.deploy.config import Config
from experiments.deploy.recipe import RECIPE
from experiments.deploy.report import rows as rows_of
from experiments.deploy.report import speedup
from tests.experiments import smoke

LIVE = (60, 20, 10, 10)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A LeNet300 with few live units, as experiments.lc_lenet300 leaves one; untrained."""
    path = tmp_path_factory.mktemp("run") / "l0" / "seed_3"
    rng = np.random.default_rng(0)
    network = {}
    sizes = (784, 300, 100, 10)
    for number in range(3):
        kernel = np.zeros(sizes[number : number + 2], np.float32)
        live = LIVE[number : number + 2]
        first = 0 if number else 380  # pixels in the middle of the images, which are not blank
        values = rng.normal(size=live) * (rng.random(live) < 0.5)
        kernel[first : first + live[0], : live[1]] = values
        bias = np.zeros(sizes[number + 1], np.float32)
        network[f"dense{number + 1}"] = {"kernel": kernel, "bias": bias}
    result = {
        "model": "lenet300", "dataset": "mnist", "name": "lenet300_l0", "seed": 3,
        "network": {"model": "lenet300", "activation": "relu"},
    }  # fmt: skip
    end(path, result, network)
    return path


@pytest.fixture(scope="module")
def reported(folder, small_mnist, tmp_path_factory):
    """Under JAX's present dispatch, which a process that has started cannot change."""
    chosen = Config(
        runs=(folder,), output=tmp_path_factory.mktemp("deploy"), repeats=1, batch_size=16,
        kinds=("ell",), dispatch="asynchronous",
    )  # fmt: skip
    return chosen, *smoke.run(RECIPE, saved_runs, small_mnist, chosen)


def test_measures_and_reports_every_form(reported):
    chosen, printed, (row,) = reported
    assert (row["name"], row["seeds"], row["batch_size"]) == ("lenet300_l0", [3], 16)
    assert row["parameters"] == 266_610
    assert row["macs"] == 266_200
    assert row["shrunk_macs"] <= np.dot(LIVE[:-1], LIVE[1:])
    assert row["nonzeros"] < 0.6 * np.dot(LIVE[:-1], LIVE[1:])
    found = {form["form"]: form for form in row["forms"]}
    assert {"dense", "shrunk", "sparse", "StableHLO, shrunk"} <= set(found)
    installed = importlib.util.find_spec("torch") is not None
    assert ("PyTorch, dense" in found) == installed == (len(row["missing"]) == 0)
    for form in found.values():
        assert form["difference"] < 1e-5
        assert form["test_error"] == pytest.approx(row["test_error"]["mean"], abs=0.2)
        assert form["asynchronous"]["latency_seconds"] > 0
        assert form["asynchronous"]["batch_seconds"] > 0
    assert list(found["sparse"]["asynchronous"]["batch_kinds"]) == [
        "dense1/kernel", "dense2/kernel", "dense3/kernel",
    ]  # fmt: skip
    assert row["latency_speedup"] == speedup(row, "sparse", "asynchronous", "latency")
    assert row["throughput_speedup"] == speedup(row, "sparse", "asynchronous", "batch")
    text = (chosen.report_folder / "report.md").read_text()
    assert "## lenet300_l0" in text
    assert "1 image, asynchronous" in printed


def test_the_figure_shows_every_form_and_file(reported):
    _, _, (row,) = reported
    latency, batch, files = RECIPE.figures([row], {})["lenet300_l0.png"].axes
    for axis, time, images in ((latency, "latency", 1), (batch, "batch", 16)):
        widths = [bar.get_width() for bar in axis.patches]
        expected = [form["asynchronous"][f"{time}_seconds"] for form in row["forms"]]
        np.testing.assert_allclose(widths, 1e6 * np.array(expected) / images)
    names = [label.get_text() for label in latency.get_yticklabels()]
    assert "sparse (chosen)" in names
    assert [bar.get_width() for bar in files.patches] == [file["bytes"] for file in row["files"]]


def test_files_have_the_bytes_that_are_stated(reported):
    chosen, _, (row,) = reported
    sizes = {p.name: p.stat().st_size for p in (chosen.folder / "lenet300_l0").iterdir()}
    stated = [file["bytes"] for file in row["files"]]
    names = [
        "dense.safetensors", "sparse.safetensors", "sparse_float16.safetensors",
        "sparse_bfloat16.safetensors",
    ]  # fmt: skip
    assert stated == [sizes[name] for name in names]
    assert row["file_bytes"] == sizes["sparse.safetensors"] < sizes["dense.safetensors"] / 100
    assert max(stated[2:]) < stated[1]


def test_ratios_are_to_the_dense_network_of_the_same_process():
    def measured(dense, sparse):
        forms = [
            {
                "form": form, "difference": 0.0, "test_error": 1.0,
                "latency_seconds": seconds, "batch_seconds": 2 * seconds,
            }
            for form, seconds in (("dense", dense), ("sparse", sparse))
        ]  # fmt: skip
        return [{"name": "n", "forms": forms}]

    (row,) = rows_of({"asynchronous": measured(6.0, 2.0), "synchronous": measured(5.0, 1.0)})
    assert (row["latency_speedup"], row["latency_speedup_synchronous"]) == (3, 5)
    assert (row["throughput_speedup"], row["throughput_speedup_synchronous"]) == (3, 5)


def test_each_dispatch_has_a_process_of_its_own(monkeypatch, folder, tmp_path):
    """Its flags are those of the experiment, and its failure is told."""
    chosen = Config(
        runs=(folder,), output=tmp_path, member=1, round=2, batch_size=3, repeats=4,
        kinds=("ell", "dense"), data_dir=tmp_path,
    )  # fmt: skip
    programs = []

    def run(program, **options):
        programs.append(program)
        return type("Done", (), {"returncode": len(programs) - 1})

    monkeypatch.setattr("subprocess.run", run)
    first, second = RECIPE.plan(chosen)
    first.ensure()
    with pytest.raises(ValueError, match="--dispatch synchronous did not run through"):
        second.ensure()
    for program, dispatch in zip(programs, ("asynchronous", "synchronous"), strict=True):
        assert program[1:3] == ["-m", "experiments.deploy"]
        found = smoke.parsed(Config, *program[3:])
        assert found == Config(
            runs=(folder,), output=tmp_path, member=1, round=2, batch_size=3, repeats=4,
            kinds=("ell", "dense"), data_dir=tmp_path, dispatch=dispatch,
        )  # fmt: skip


def test_errors(folder, tmp_path):
    with pytest.raises(ValueError, match="RUNS must name at least one folder"):
        Config(runs=()).check()
    with pytest.raises(ValueError, match="--batch-size must be at least 1; got 0"):
        Config(runs=(folder,), batch_size=0).check()
    with pytest.raises(ValueError, match="has no result.json"):
        saved_runs.read(tmp_path, None, None, 0)
    (tmp_path / "result.json").write_text(json.dumps({"settings": {"other": 1}}))
    with pytest.raises(ValueError, match="is of none"):
        saved_runs.read(tmp_path, None, None, 0)
