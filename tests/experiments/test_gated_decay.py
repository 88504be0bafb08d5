"""The experiment as its users run it: from the command line, on the real MNIST."""

import dataclasses
import json
import math

import jax
import numpy as np
import pytest

from experiments.data import DataError
from experiments.gated_decay.__main__ import main, plan
from experiments.gated_decay.config import ROWS, Config, check
from tests.experiments.command import run_module
from tests.experiments.data.test_imagenet import pictures, prepare
from tests.experiments.finished import check_read_back
from tests.models.test_vgg16_weights import imagenet_file

PARAMETERS = 431_080

FLAGS = (
    "--dataset", "mnist", "--kappa", "50000", "--earlier", "150000", "--lower-bound", "0.8",
    "--at-least", "60000", "--fraction", "0.3", "--batch-size", "500",
)  # fmt: skip


def run(output, *flags):
    return run_module(
        "experiments.gated_decay", "--preset", "smoke", "--seeds", "0", "--eval-interval", "40",
        "--output", output, *flags,
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
    rows = json.loads((output / "results" / "report.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["mnist", "mnist_50000", "mnist_150000"]
    row, compressed, sooner = rows
    assert sooner["pruned_nonzeros"] == [150000]
    assert compressed["nonzeros"] == [50000]
    assert compressed["test_error"]["mean"] < 10
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
        ({"kappa": (862, 0)}, "--kappa must be at least 1; got 0"),
        ({"dataset": ("imagenet2012",)}, "--dataset of lenet5 must be of .* got imagenet2012"),
        ({"model": "vgg16"}, "--data-dir must name the folder in which TFDS has prepared"),
    ],
)
def test_bad_flags_are_named_before_anything_is_trained(mnist, tmp_path, flags, message):
    del mnist  # it is prepared by now
    config = Config(preset="smoke", output=tmp_path, **flags)

    def begin():
        check(config)
        plan(config)

    with pytest.raises((ValueError, DataError), match=message):
        begin()


def test_every_row_has_its_schedule_and_bound():
    for preset in ("smoke", "quick", "paper"):
        for model, row in [(model, row) for model, rows in ROWS.items() for row in rows]:
            settings = Config(model=model, preset=preset).settings(row)
            assert settings["prune_epochs"] > 0
            assert 0 < settings["lower_bound"] < 1


@pytest.fixture
def quick_compilation():
    """Most of the test's time is XLA's."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.mark.usefixtures("quick_compilation")
def test_vgg16_on_images_of_its_format(tmp_path, capsys):
    """Every label is 0 and so is every prediction of the untrained network, so it prunes."""
    same = [dataclasses.replace(picture, label=0) for picture in pictures(8, 0)]
    prepare(tmp_path / "data", train=same, validation=same[:6])
    config = Config(
        model="vgg16", preset="smoke", seeds=(0,), width=1 / 16, batch_size=4, eval_interval=2,
        lower_bound=0.5, fraction=0.25, learning_rate=1e-5, finetune_rate=1e-5,
        weights=imagenet_file(tmp_path), data_dir=tmp_path / "data", output=tmp_path / "run",
    )  # fmt: skip
    main(config, "command")
    (pruned,) = json.loads((tmp_path / "run/results/report.json").read_text())["rows"]
    assert pruned["name"] == "imagenet2012"
    assert pruned["prunings"] == [2]  # four steps, an assessment every two
    size = pruned["parameters"][0]
    left = size - math.ceil(size / 4)
    left -= math.ceil(left / 4)
    assert pruned["pruned_nonzeros"] == [left]
    assert "imagenet2012 seed 0" in capsys.readouterr().out
    for name in ("curves.png", "weights.png", "filters.png"):
        assert (tmp_path / "run" / "results" / name).stat().st_size > 1000


def test_the_network_can_be_read_back(finished):
    output, _ = finished
    folder = output / "mnist" / "seed_0"
    result = json.loads((folder / "result.json").read_text())
    network = check_read_back(folder, result)
    left = sum(int((leaf != 0).sum()) for leaf in jax.tree.leaves(network.params))
    assert (network.name, left) == ("lenet5_mnist", result["nonzeros"])
