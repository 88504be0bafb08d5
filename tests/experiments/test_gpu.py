"""The command for a GPU, on a machine without one."""

import json
import time

import jax
import pytest

from experiments.gpu.__main__ import Config, _reported, common, main, pieces, vmap_size
from experiments.tickets.config import METHODS
from experiments.tickets.config import Config as Tickets
from tests.experiments.command import run_module


def test_says_what_is_missing_and_what_to_do():
    if jax.default_backend() != "cpu":
        pytest.skip("there is an accelerator")
    with pytest.raises(ValueError, match="no accelerator: JAX found a CPU alone"):
        main(Config(), "")
    with pytest.raises(ValueError, match="--minutes must be positive; got 0"):
        main(Config(minutes=0), "")
    with pytest.raises(ValueError, match="--rounds must be positive; got 0"):
        main(Config(rounds=0), "")


def test_the_dense_networks_and_the_first_method_come_first():
    order = [(model, piece[1], piece[-1]) for model, piece in pieces(Config(rounds=2))]
    assert order == [
        ("resnet20", "imp", "0"), ("resnet20", "cs", "2"),
        ("vgg16", "imp", "0"), ("vgg16", "cs", "2"),
        ("resnet20", "imp", "30"), ("vgg16", "imp", "30"),
    ]  # fmt: skip
    without = pieces(Config(model=("vgg16",), pruning_rounds=0))
    assert [piece[1] for _, piece in without] == ["imp", "cs"]
    assert Tickets().settings("imp")["rounds"] > 0
    assert Tickets(pruning_rounds=0).settings("imp")["rounds"] == 0


def test_its_commands_are_ones_that_the_experiment_takes(tmp_path):
    config = Config(data_dir=tmp_path, seeds=(0, 1), published=True)
    for model, piece in pieces(config)[:2]:
        assert piece[1] in METHODS
        process = run_module("experiments.tickets", *common(config, model), *piece, "--epochs", "0")
        assert "--epochs must be positive; got 0" in process.stderr  # parsed, then refused
    process = run_module("experiments.gpu.pace", *common(config, "vgg16"), "--epochs", "0")
    assert "--epochs must be positive; got 0" in process.stderr


def test_what_is_faster_is_read_from_what_was_measured(tmp_path):
    config = Config(output=tmp_path)
    file = config.pace_file("vgg16")
    file.parent.mkdir()
    file.write_text(json.dumps({"seconds": {"1": 3.0, "4": 2.5}}))
    assert vmap_size(config, "vgg16", end=0) == 4
    assert vmap_size(Config(output=tmp_path, vmap_size=2), "vgg16", end=0) == 2


@pytest.mark.parametrize(("seconds", "ended"), [(60, False), (0, True)])
def test_a_report_that_takes_too_long_is_given_up(tmp_path, seconds, ended):
    # What is run gets one more word, --so-far, which is an expression here.
    wait = ["timeit", "-n1", "-r1", "-s", "so = far = 1", f"__import__('time').sleep({seconds})"]
    end = time.monotonic() + (30 if ended else 0)
    assert _reported(wait, end, Config(output=tmp_path)) is ended
