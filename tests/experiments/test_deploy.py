"""The experiment as its users run it: from the command line, on a folder in a run's format."""

import importlib.util
import json

import numpy as np
import pytest

from experiments.deploy.config import Config, check
from experiments.deploy.finished import finished
from experiments.deploy.report import speedup, table_rows
from tests.experiments.command import run_module

LIVE = (60, 20, 10, 10)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A LeNet300 with few live units, as experiments.lc_lenet300 leaves one; untrained."""
    path = tmp_path_factory.mktemp("run") / "l0" / "seed_3"
    path.mkdir(parents=True)
    rng = np.random.default_rng(0)
    leaves = {}
    sizes = (784, 300, 100, 10)
    for number in range(3):
        inputs, outputs = sizes[number : number + 2]
        kernel = np.zeros((inputs, outputs), np.float32)
        live = LIVE[number : number + 2]
        kernel[: live[0], : live[1]] = rng.normal(size=live) * (rng.random(live) < 0.5)
        leaves[f"{2 * number:02d}"] = np.zeros(outputs, np.float32)  # bias, then kernel
        leaves[f"{2 * number + 1:02d}"] = kernel
    np.savez(path / "network.npz", **leaves)
    settings = {"row": "l0", "l_steps": 1, "activation": "relu", "seed": 3}
    (path / "result.json").write_text(json.dumps({"settings": settings}))
    return path


@pytest.fixture(scope="module")
def reported(folder, mnist, tmp_path_factory):
    del mnist  # it is prepared by now
    output = tmp_path_factory.mktemp("deploy")
    return output, run_module(
        "experiments.deploy", folder, "--output", output, "--rounds", "1", "--batch-size", "16",
        "--kinds", "ell",
    )  # fmt: skip


def test_measures_and_reports_every_form(reported):
    output, process = reported
    results = output / "results"
    assert process.returncode == 0, process.stderr
    for name in ("report.md", "lenet300_l0.png"):
        assert (results / name).stat().st_size > 1000
    (row,) = json.loads((results / "report.json").read_text())["rows"]
    assert (row["name"], row["seeds"], row["batch_size"]) == ("lenet300_l0", [3], 16)
    assert row["parameters"] == 266_610
    assert row["macs"] == 266_200
    assert row["shrunk_macs"] <= np.dot(LIVE[:-1], LIVE[1:])
    assert row["nonzeros"] < 0.6 * np.dot(LIVE[:-1], LIVE[1:])
    forms = {form["form"]: form for form in row["forms"]}
    assert {"dense", "shrunk", "sparse", "StableHLO, shrunk"} <= set(forms)
    installed = importlib.util.find_spec("torch") is not None
    assert ("PyTorch, dense" in forms) == installed == (len(row["missing"]) == 0)
    for form in forms.values():
        assert form["difference"] < 1e-5
        assert form["test_error"] == pytest.approx(row["test_error"]["mean"], abs=0.02)
        for dispatch in ("asynchronous", "synchronous"):
            assert form[dispatch]["latency_seconds"] > 0
            assert form[dispatch]["batch_seconds"] > 0
    assert list(forms["sparse"]["synchronous"]["batch_kinds"]) == [
        "dense1/kernel", "dense2/kernel", "dense3/kernel",
    ]  # fmt: skip
    assert row["latency_speedup"] == speedup(row, "sparse", "asynchronous", "latency")
    assert row["throughput_speedup_synchronous"] == speedup(row, "sparse", "synchronous", "batch")


def test_files_have_the_bytes_that_are_stated(reported):
    output, _ = reported
    (row,) = json.loads((output / "results" / "report.json").read_text())["rows"]
    sizes = {path.name: path.stat().st_size for path in (output / "lenet300_l0").iterdir()}
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

    (row,) = table_rows({"asynchronous": measured(6.0, 2.0), "synchronous": measured(5.0, 1.0)})
    assert (row["latency_speedup"], row["latency_speedup_synchronous"]) == (3, 5)
    assert (row["throughput_speedup"], row["throughput_speedup_synchronous"]) == (3, 5)


def test_errors(folder, tmp_path):
    with pytest.raises(ValueError, match="RUNS must name at least one folder"):
        check(Config(runs=()))
    with pytest.raises(ValueError, match="--batch-size must be at least 1; got 0"):
        check(Config(runs=(folder,), batch_size=0))
    with pytest.raises(ValueError, match="has no result.json"):
        finished(tmp_path)
    (tmp_path / "result.json").write_text(json.dumps({"settings": {"other": 1}}))
    with pytest.raises(ValueError, match="is of none"):
        finished(tmp_path)
    process = run_module("experiments.deploy", tmp_path / "nowhere", "--output", tmp_path / "o")
    assert process.returncode == 1
    assert "nowhere has no result.json" in process.stderr
    assert "Traceback" not in process.stderr
