"""The experiment as its users run it: from the command line, on the real MNIST."""

import json

import numpy as np
import pytest

from experiments.tickets.config import METHODS, Config, check
from tests.experiments.command import run_module


def run(output, *flags):
    return run_module(
        "experiments.tickets", "--preset", "smoke", "--seeds", "0", "1", "--epochs", "1",
        "--batch-size", "500", "--initial=-0.05", "0.05", "--densities", "0.1",
        "--l0-penalties", "1e-6", "--method", "cs", "imp", "random", "l0",
        "--output", output, *flags,
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(mnist, tmp_path_factory):
    del mnist  # it is prepared by now
    output = tmp_path_factory.mktemp("smoke") / "run"
    return output, run(output)


def test_searches_trains_the_tickets_and_reports(finished):
    output, process = finished
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    folder = output / "lenet300_mnist"
    for name in ("report.md", "report.json", "tickets.png", "cost.png"):
        assert (folder / "results" / name).stat().st_size > 1000
    rows = json.loads((folder / "results" / "report.json").read_text())["rows"]
    by_method = {}
    for row in rows:
        assert row["seeds"] == [0, 1]
        by_method.setdefault(row["method"], []).append(row)
    assert set(by_method) == {"cs", "imp", "random", "l0"}
    # Iterative pruning: the whole network, then a fifth less each round, at an epoch a round.
    assert [row["nonzeros"] for row in by_method["imp"]] == [
        [266200] * 2,
        [212960] * 2,
        [170368] * 2,
    ]
    assert [row["search_epochs"] for row in by_method["imp"]] == [0, 1, 2]
    assert by_method["imp"][0]["test_error"]["mean"] < 15
    assert by_method["random"][0]["nonzeros"] == [26620] * 2
    # Continuous sparsification: two starts, two rounds, and the lower start is the sparser.
    assert [row["round"] for row in by_method["cs"]] == [1, 1, 2, 2]
    low, high = by_method["cs"][:2]
    assert max(low["nonzeros"]) < min(high["nonzeros"])
    with np.load(folder / "cs" / "masks_2.npz") as masks:
        left = sum(masks[name].sum(axis=(1, 2)) for name in masks.files)
    wanted = [n for row in by_method["cs"][2:] for n in row["nonzeros"]]
    assert sorted(left.tolist()) == sorted(wanted)


def test_what_is_there_is_not_searched_again(finished):
    output, first = finished
    process = run(output, "--resume")
    assert process.returncode == 0, process.stderr
    assert process.stdout == first.stdout


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"epochs": -1}, "--epochs must be positive; got -1"),
        ({"epochs": 1}, "--epochs must be at least 2, since weights are rewound to that epoch"),
        ({"densities": (0.1, 1.5)}, r"--densities must be in \(0, 1\); got 1.5"),
        ({"seeds": ()}, "--seeds must name at least one seed; got none"),
        ({"learning_rate": 0.0}, "--learning-rate must be positive; got 0.0"),
    ],
)
def test_bad_flags_are_named(flags, message):
    with pytest.raises(ValueError, match=message):
        check(Config(**flags))


def test_every_method_has_its_members():
    config = Config()
    for method in METHODS:
        settings = config.settings(method)
        assert {member["seed"] for member in settings["members"]} == {0, 1, 2}
        assert settings["rounds"] == {"cs": 3, "imp": 20, "imp_continued": 20}.get(method, 1)
