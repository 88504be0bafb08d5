"""The command for a GPU, on a machine without one."""

import json
import time

import jax
import pytest

from experiments.gpu import calibrate
from experiments.gpu.__main__ import Config, _reported, common, main, pieces, vmap_size
from experiments.tickets.config import Config as Tickets
from tests.experiments import smoke


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
    for model, piece in pieces(config):
        tickets = smoke.parsed(Tickets, *common(config, model), *piece, "--partial")
        tickets.check()
        assert tickets.methods() == (piece[1],)
        assert (tickets.model, tickets.task, tickets.dtype) == (model, "cifar10", "bfloat16")
        assert (tickets.preset, tickets.seeds, tickets.published) == ("paper", (0, 1), True)
        assert (tickets.data_dir, tickets.resume, tickets.devices) == (tmp_path, True, 1)
    trial = Config(trial=True)
    for model, piece in pieces(trial):
        tickets = smoke.parsed(Tickets, *common(trial, model), *piece)
        assert (tickets.epochs, tickets.width) == (1, 0.125)
        tickets.check()


def test_calibrates_on_the_smallest_network(small_mnist, tmp_path, capsys):
    config = Tickets(
        preset="smoke", seeds=(0,), initial=(0.0, 0.1), batch_size=1000, output=tmp_path
    )
    with smoke.loading(calibrate, small_mnist):
        calibrate.main(config, "a command")
    found = json.loads((tmp_path / "lenet300_mnist" / "calibration.json").read_text())
    assert set(found["seconds"]) == {"1", "2"}
    assert min(found["seconds"].values()) > 0
    assert "2 together" in capsys.readouterr().out
    assert not (tmp_path / "lenet300_mnist" / "cs").exists()  # nothing is kept of the trial


def test_what_is_faster_is_read_from_what_was_measured(tmp_path):
    config = Config(output=tmp_path)
    file = config.calibration("vgg16")
    file.parent.mkdir()
    file.write_text(json.dumps({"seconds": {"1": 3.0, "4": 2.5}}))
    assert vmap_size(config, "vgg16", end=0) == 4
    assert vmap_size(Config(output=tmp_path, vmap_size=2), "vgg16", end=0) == 2


@pytest.mark.parametrize(("seconds", "ended"), [(60, False), (0, True)])
def test_a_report_that_takes_too_long_is_given_up(tmp_path, seconds, ended):
    # The program gets one more word, --partial, which is an expression here.
    wait = ["timeit", "-n1", "-r1", "-s", "partial = 1", f"__import__('time').sleep({seconds})"]
    end = time.monotonic() + (30 if ended else 0)
    assert _reported(wait, end, Config(output=tmp_path)) is ended
