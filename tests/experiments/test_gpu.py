"""The command for a GPU, on a machine without one."""

import dataclasses
import json
import time

import jax
import pytest

from experiments.gpu import calibrate
from experiments.gpu.__main__ import Config, _reported, common, flags, main, pieces, planned
from experiments.gpu.plan import Plan, make_plan
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
    assert pieces(Config()) == [
        ("resnet20", "dense"), ("resnet20", "cs"), ("vgg16", "dense"), ("vgg16", "cs"),
        ("resnet20", "imp"), ("vgg16", "imp"),
    ]  # fmt: skip
    assert [piece for _, piece in pieces(Config(model=("vgg16",), pruning_rounds=0))] == [
        "dense", "cs",
    ]  # fmt: skip
    assert Tickets().settings("imp")["rounds"] > 0
    assert Tickets(pruning_rounds=0).settings("imp")["rounds"] == 0


def test_its_commands_are_ones_that_the_experiment_takes(tmp_path):
    config = Config(data_dir=tmp_path, seeds=(0, 1), variant="rewound")
    plan = Plan((0.0, -0.05), 3, 1.0)
    for model, piece in pieces(config):
        words = [*common(config, model), *flags(config, piece, plan if piece == "cs" else None)]
        tickets = smoke.parsed(Tickets, *words, "--partial")
        tickets.check()
        assert tickets.methods() == (("cs",) if piece == "cs" else ("imp",))
        assert (tickets.model, tickets.task, tickets.dtype) == (model, "cifar10", "bfloat16")
        assert (tickets.preset, tickets.seeds, tickets.variant) == ("paper", (0, 1), "rewound")
        assert (tickets.data_dir, tickets.resume, tickets.devices) == (tmp_path, True, 1)
        if piece == "cs":
            assert (tickets.initial, tickets.rounds) == ((0.0, -0.05), 3)
    trial = Config(trial=True)
    for model, piece in pieces(trial):
        tickets = smoke.parsed(Tickets, *common(trial, model), *flags(trial, piece))
        assert (tickets.epochs, tickets.width) == (1, 0.125)
        tickets.check()


@pytest.mark.parametrize(
    ("left", "started", "done", "expected"),
    [
        # Two rounds of a start take 200 seconds; what is left goes into further rounds.
        (1000, (), 0, ((0.0, 0.1, -0.1), 3, 900)),
        (650, (), 0, ((0.0, 0.1, -0.1), 2, 600)),
        (450, (), 0, ((0.0, 0.1), 2, 400)),
        (350, (), 0, ((0.0,), 3, 300)),
        (10, (), 0, ((0.0,), 1, 100)),  # what is cut off is continued
        (10_000, (), 0, ((0.0, 0.1, -0.1), 5, 1500)),
        (650, (0.3, 0.2), 2, ((0.3, 0.2), 5, 600)),
        (250, (0.3, 0.2), 2, ((0.3, 0.2), 3, 200)),
        (650, (0.3, 0.2), 5, ((0.3, 0.2), 5, 0)),
    ],
)
def test_as_much_is_planned_as_fits(left, started, done, expected):
    assert make_plan((0.0, 0.1, -0.1), 5, 100.0, left, started, done) == expected


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


def test_the_plan_follows_what_was_measured_and_what_has_ended(tmp_path):
    config = Config(output=tmp_path, seeds=(0, 1))
    file = config.calibration("vgg16")
    file.parent.mkdir()
    # 8 members take 8 seconds an epoch together: a round of a start and its seeds 2 * 85 * 2.
    file.write_text(json.dumps({"members": 8, "seconds": {"1": 9.0, "8": 8.0}}))
    now = time.monotonic()
    size, plan = planned(config, "vgg16", now + 1500)
    assert (size, plan.initial, plan.rounds) == (4, (0.0, 0.05), 2)
    assert plan.seconds == pytest.approx(4 * 340)
    assert "from 0, 0.05 up to round 2, about 22.7 minutes" in str(plan)
    size, _ = planned(dataclasses.replace(config, vmap_size=3), "vgg16", now + 1500)
    assert size == 2  # of four members
    members = [{"initial": start, "seed": seed} for start in (0.05, -0.1) for seed in (0, 1)]
    found = {"settings": {"members": members}, "rows": [{"round": 1}, {"round": 2}]}
    (file.parent / "cs").mkdir()
    (file.parent / "cs" / "result.json").write_text(json.dumps(found))
    _, plan = planned(config, "vgg16", now + 1500)
    assert (plan.initial, plan.rounds) == ((0.05, -0.1), 4)


@pytest.mark.parametrize(("seconds", "ended"), [(60, False), (0, True)])
def test_a_report_that_takes_too_long_is_given_up(tmp_path, seconds, ended):
    # The program gets one more word, --partial, which is an expression here.
    wait = ["timeit", "-n1", "-r1", "-s", "partial = 1", f"__import__('time').sleep({seconds})"]
    end = time.monotonic() + (30 if ended else 0)
    assert _reported(wait, end, Config(output=tmp_path)) is ended
