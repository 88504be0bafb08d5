"""The experiment as its users run it: from the command line, on the real MNIST."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from experiments.gated_decay.config import PARAMETERS, ROWS, Config, check
from experiments.gated_decay.train import Run

ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
FLAGS = ("--dataset", "mnist", "--lower-bound", "0.8", "--fraction", "0.3", "--batch-size", "500")


def run(output, *flags):
    return subprocess.run(
        [
            sys.executable, "-m", "experiments.gated_decay", "--preset", "smoke", "--seeds", "0",
            "--eval-interval", "40", "--output", str(output), *flags,
        ],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=600,
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(mnist, tmp_path_factory):
    del mnist  # it is prepared by now
    output = tmp_path_factory.mktemp("smoke") / "run"
    return output, run(output, *FLAGS)


def test_prunes_fine_tunes_and_reports(finished):
    output, process = finished
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    assert "99.22 %" in process.stdout  # the published figure stands beside ours
    for name in ("report.md", "report.json", "curves.png", "weights.png", "filters.png"):
        assert (output / "results" / name).stat().st_size > 1000
    (row,) = json.loads((output / "results" / "report.json").read_text())["rows"]
    assert row["name"] == "mnist"
    assert row["test_error"]["mean"] < 10
    (nonzeros,), (prunings,) = row["nonzeros"], row["prunings"]
    assert prunings >= 2
    left = PARAMETERS
    for _ in range(prunings):
        left -= int(np.ceil(np.float32(0.3) * np.float32(left)))
    assert nonzeros <= left < PARAMETERS
    assert sum(row["layer_nonzeros"][0]) == nonzeros
    with np.load(output / "mnist" / "seed_0" / "network.npz") as network:
        assert sum(int((network[name] != 0).sum()) for name in network.files) == nonzeros
    assert row["bzip2_bytes"][0] < row["dense_bzip2_bytes"][0]


def test_finished_runs_are_not_run_again(finished):
    output, _ = finished
    process = run(output, *FLAGS, "--resume")
    assert "(already there)" in process.stdout, process.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"lower_bound": 98.7}, r"lower_bound must be a fraction in \[0, 1\], not in per cent"),
        ({"fraction": 0.0}, r"fraction must be in \(0, 1\); got 0"),
        ({"fraction": 4.0}, r"fraction must be in \(0, 1\); got 4"),
        ({"decay_rate": 0.0}, r"--decay-rate must be in \(0, 1\]; got 0.0"),
        ({"eval_interval": 0}, "--eval-interval must be positive; got 0"),
        ({"patience": -1}, "--patience must be >= 0; got -1"),
    ],
)
def test_bad_flags_are_named_before_anything_is_trained(mnist, tmp_path, flags, message):
    config = Config(preset="smoke", **flags)

    def begin():
        check(config)
        Run(tmp_path, mnist, config.settings("mnist"), 0, resume=False)

    with pytest.raises(ValueError, match=message):
        begin()


def test_every_row_has_its_schedule_and_bound():
    for preset in ("smoke", "quick", "paper"):
        for row in ROWS:
            settings = Config(preset=preset).settings(row)
            assert settings["prune_epochs"] > 0
            assert 0 < settings["lower_bound"] < 1
