"""The experiment as its users run it: from the command line, on the real MNIST."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from tests.experiments.finished import check_read_back

ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}


def command(output, *flags):
    return [
        sys.executable, "-m", "experiments.lc_lenet300", "--preset", "smoke", "--seeds", "0",
        "--output", str(output), *flags,
    ]  # fmt: skip


def run(output, *flags):
    return subprocess.run(
        command(output, *flags), env=ENVIRONMENT, capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def finished(mnist, tmp_path_factory):
    del mnist  # it is prepared by now
    output = tmp_path_factory.mktemp("smoke") / "run"
    return output, run(output, "--method", "l0", "l0_l2", "l1")


def final_bits(output):
    """The networks, results and metrics of the finished runs, without the times they took."""
    found = {}
    for file in sorted(output.glob("*/seed_0/*")):
        name = f"{file.parts[-3]}/{file.name}"
        if file.name == "network.npz":
            with np.load(file) as arrays:
                found[name] = {key: arrays[key].tobytes() for key in arrays.files}
        elif file.name == "result.json":
            result = json.loads(file.read_text())
            found[name] = {k: v for k, v in result.items() if k not in ("seconds", "finished")}
        elif file.name == "metrics.jsonl":
            rows = [json.loads(line) for line in file.read_text().splitlines()]
            found[name] = [{k: v for k, v in row.items() if k != "seconds"} for row in rows]
    return found


def test_prints_the_table_and_writes_report_and_figures(finished):
    output, process = finished
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""  # no warning, and no progress bar where there is no terminal
    assert "2.33 %" in process.stdout  # the published figure stands beside ours
    assert "344-210-100-10" in process.stdout
    for name in ("report.md", "report.json", "pixels.png", "connectivity.png", "curves.png"):
        assert f"wrote {output / 'results' / name}" in process.stdout
        assert (output / "results" / name).stat().st_size > 500
    assert "| l0 [l0] | relu | 2.33 % |" in (output / "results" / "report.md").read_text()


def test_the_report_has_the_agreed_form(finished):
    report = json.loads((finished[0] / "results" / "report.json").read_text())
    assert report["experiment"] == "lc_lenet300"
    assert report["command"].startswith("python -m experiments.lc_lenet300 --preset smoke")
    assert {"jax", "optax", "flax", "python"} <= report["versions"].keys()
    assert report["machine"]["cores"] == os.cpu_count()
    assert [row["name"] for row in report["rows"]] == ["l0", "l1", "l0_l2"]
    row = report["rows"][0]
    assert (row["model"], row["dataset"], row["method"]) == ("lenet300", "mnist", "l0")
    assert (row["preset"], row["seeds"], row["nonzeros"]) == ("smoke", [0], [5324])
    assert row["density"] == [5324 / 266200]
    assert row["published"]["test_error"] == 2.33
    for error in (row["test_error"], row["validation_error"]):
        assert error["values"] == [error["mean"]]
        assert error["std"] == 0
    assert len(row["live_units"][0]) == 4
    assert row["seconds"][0] > 0


def test_exactly_kappa_weights_and_a_network_that_works(finished):
    for row in ("l0", "l0_l2"):
        result = json.loads((finished[0] / row / "seed_0" / "result.json").read_text())
        assert result["nonzeros"] == 5324
        assert result["test_error"] < 12  # 8 epochs; 90 would be chance


def test_resuming_what_has_ended_trains_nothing(finished):
    output, first = finished
    before = final_bits(output)
    again = run(output, "--method", "l0", "l0_l2", "l1", "--resume")
    assert again.returncode == 0
    assert again.stdout.count("(already there)") == 5  # both references, too
    assert final_bits(output) == before
    table = lambda text: text[text.index("row  ") :].split("wrote")[0]  # noqa: E731
    assert table(again.stdout) == table(first.stdout)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--method", "l0"], "already holds a run"),
        (["--method", "l0", "--resume", "--kappa", "100"], "kappa: 5324 there, 100 here"),
        (["--method", "l0", "--kappa", "-1"], "kappa must be an integer >= 0; got -1"),
        (["--method", "l0", "--kappa", "266201"], "kappa must be .* to 266200; got 266201"),
        (["--method", "l0", "--mu", "-1"], "mu_schedule must be positive"),
        (["--data-dir", "/dev/null"], "data_dir must be a folder; /dev/null is a file"),
    ],
)
def test_bad_input_is_one_line_that_names_it(flags, message, finished, tmp_path):
    import re

    output = finished[0] if "already" in message or "there" in message else tmp_path / "new"
    before = final_bits(output)
    process = run(output, *flags)
    assert process.returncode == 1
    assert process.stderr.startswith("error: ")
    assert len(process.stderr.strip().splitlines()) == 1
    assert re.search(message, process.stderr)
    assert final_bits(output).items() >= before.items()


def test_killed_at_random_moments_it_resumes_to_the_same_bits(finished, tmp_path):
    output = tmp_path / "killed"
    seed = int(os.environ.get("SPARSEJAX_KILL_SEED", time.time()))
    moments = random.Random(seed)
    flags = ("--method", "l0", "l0_l2", "l1", "--resume")
    kills = 0
    while kills < 5:
        process = subprocess.Popen(
            command(output, *flags),
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            process.wait(timeout=moments.uniform(4, 11))
            break  # it ended before it could be killed
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
    last = run(output, *flags)
    assert last.returncode == 0, f"SPARSEJAX_KILL_SEED={seed}: {last.stderr}"
    assert final_bits(output) == final_bits(finished[0]), f"SPARSEJAX_KILL_SEED={seed}"


def test_a_network_can_be_read_back(finished):
    output, _ = finished
    folder = output / "l0_l2" / "seed_0"
    result = json.loads((folder / "result.json").read_text())
    network = check_read_back(folder, result)
    kernels = [leaf for leaf in jax.tree.leaves(network.params) if leaf.ndim > 1]
    assert sum(int((leaf != 0).sum()) for leaf in kernels) == result["nonzeros"]
    assert (network.name, network.activation) == ("lenet300_l0_l2", "tanh")
