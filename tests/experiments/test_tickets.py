"""The experiment as its users run it: from the command line, on the real MNIST."""

import json
import shutil

import jax
import numpy as np
import pytest

from experiments.common.results import summary
from experiments.tickets.config import METHODS, Config, check
from experiments.tickets.points import (
    against,
    best,
    density,
    envelope,
    points,
    sparsest_matching,
)
from experiments.tickets.standing import Count, Standing, comparison, overview, standing
from tests.experiments.command import run_module
from tests.experiments.finished import check_read_back


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
    figures = [f"lenet300_mnist_{name}.png" for name in ("tickets", "cost", "overlap")]
    for name in ("report.md", "report.json", *figures):
        assert (output / "results" / name).stat().st_size > 1000
    rows = json.loads((output / "results" / "report.json").read_text())["rows"]
    by_method = {row["method"]: row for row in rows}
    assert set(by_method) == {"cs", "imp", "random", "l0"}
    for row in rows:
        assert row["name"] == f"lenet300_mnist_{row['method']}"
        assert row["seeds"] == [0, 1]
        assert row["test_error"] == row[row["chosen"]]["test_error"]
        assert row["best"] in row["points"]
    # Iterative pruning: the whole network, then a fifth less each round, at an epoch a round.
    pruned = by_method["imp"]["points"]
    assert [point["nonzeros"] for point in pruned] == [[266200] * 2, [212960] * 2, [170368] * 2]
    assert [point["search_epochs"] for point in pruned] == [0, 1, 2]
    assert pruned[0]["test_error"]["mean"] < 15
    assert by_method["random"]["dense"] == pruned[0]
    assert by_method["random"]["points"][0]["nonzeros"] == [26620] * 2
    assert by_method["random"]["points"][0]["overlap"] == pytest.approx(0.1 / 1.9, rel=0.1)
    # Continuous sparsification: two starts, two rounds, and the lower start is the sparser.
    searched = by_method["cs"]["points"]
    assert [point["round"] for point in searched] == [1, 1, 2, 2]
    low, high = searched[:2]
    assert max(low["nonzeros"]) < min(high["nonzeros"])
    with np.load(folder / "cs" / "masks_2.npz") as masks:
        names = [name for name in masks.files if name != "scale"]
        left = sum(masks[name].sum(axis=(1, 2)) for name in names)
        # Tickets were trained with the scale outside of their weights: two seeds of two starts.
        np.testing.assert_allclose(masks["scale"], 1 + np.exp([0.05, -0.05] * 2), rtol=1e-6)
    assert by_method["cs"]["settings"]["ticket_scale"] == "outside"
    assert "ticket_scale" not in by_method["imp"]["settings"]
    report = (output / "results" / "report.md").read_text()
    assert "| [lenet300_mnist_cs] | ticket scale outside | 1 | 2 |" in report
    assert "| [lenet300_mnist_imp] |  | 1 | 2 |" in report
    assert "Continuous sparsification, ticket scale outside: tickets are trained with the" in report
    wanted = [n for point in searched[2:] for n in point["nonzeros"]]
    assert sorted(left.tolist()) == sorted(wanted)


def test_what_is_there_is_not_searched_again(finished):
    output, first = finished
    process = run(output, "--resume")
    assert process.returncode == 0, process.stderr
    assert process.stdout == first.stdout


def test_more_rounds_go_on_from_those_that_are_there(finished, tmp_path):
    output, _ = finished
    shutil.copytree(output, tmp_path / "run")
    more = ("--rounds", "3", "--pruning-rounds", "3", "--method", "cs", "imp")
    process = run(tmp_path / "run", "--resume", *more)
    assert process.returncode == 0, process.stderr
    found, before = (
        json.loads((folder / "results" / "report.json").read_text())["rows"]
        for folder in (tmp_path / "run", output)
    )
    assert found[2:] == before[2:]  # what was not searched further
    for longer, shorter in zip(found[:2], before[:2], strict=True):
        assert longer["points"][: len(shorter["points"])] == shorter["points"]
        assert longer["points"][-1]["round"] == 3


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"epochs": -1}, "--epochs must be positive; got -1"),
        ({"epochs": 1}, "--epochs must be at least 2, since weights are rewound to that epoch"),
        ({"densities": (0.1, 1.5)}, r"--densities must be in \(0, 1\); got 1.5"),
        ({"seeds": ()}, "--seeds must name at least one seed; got none"),
        ({"learning_rate": 0.0}, "--learning-rate must be positive; got 0.0"),
        ({"devices": 0}, "--devices must be positive; got 0"),
        ({"vmap_size": 0}, "--vmap-size must be positive; got 0"),
        (
            {"beta": "staircase", "epochs": 1, "preset": "smoke"},
            "--beta staircase needs at least 2",
        ),
        ({"published": True, "epochs": 1, "preset": "smoke"}, "2 epochs a round; got 1"),
        ({"pruning_rounds": -1}, "--pruning-rounds must be at least 0; got -1"),
        ({"model": "resnet20", "dataset": "mnist"}, "--dataset must be cifar10 for resnet20"),
        ({"dataset": "cifar10"}, "got --model lenet300 --dataset cifar10"),
        ({"width": 0.5}, "--width and --dtype are for --model resnet20 and vgg16 alone"),
    ],
)
def test_bad_flags_are_named(flags, message):
    with pytest.raises(ValueError, match=message):
        check(Config(**flags))


def test_what_has_ended_so_far_is_reported(finished, tmp_path):
    output, _ = finished
    shutil.copytree(output, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "results")
    for method in ("cs", "imp", "random"):
        (tmp_path / "run" / "lenet300_mnist" / method / "result.json").unlink()
    shutil.rmtree(tmp_path / "run" / "lenet300_mnist" / "l0")
    process = run(tmp_path / "run", "--so-far", "--rounds", "4")  # more rounds are under way
    assert process.returncode == 0, process.stderr
    before, found = (
        json.loads((folder / "results" / "report.json").read_text())["rows"]
        for folder in (output, tmp_path / "run")
    )
    assert [row["points"] for row in found] == [r["points"] for r in before if r["method"] != "l0"]
    process = run(tmp_path / "elsewhere", "--so-far")
    assert process.returncode != 0
    assert "--so-far: no round of these methods has ended in" in process.stderr


def test_a_shorter_search_does_not_replace_a_longer_one(finished, tmp_path):
    output, _ = finished
    rows = json.loads((output / "results" / "report.json").read_text())["rows"]
    rows[0]["settings"]["epochs"] = 20
    (tmp_path / "report.json").write_text(json.dumps({"rows": rows}))
    process = run(tmp_path / "run", "--results", tmp_path)
    assert process.returncode != 0
    assert "--results holds lenet300_mnist_cs of 20 epochs a round, which rows of 1 may" in (
        process.stderr
    )


def result(density, error, epochs=10, number=1, seeds=2):
    """Members of a round that differ in their seed alone."""
    return [
        {
            "round": number, "search_epochs": epochs, "fraction": 0.5, "seed": seed,
            "nonzeros": int(1000 * density), "density": density,
            "validation_error": error + 0.5 + seed, "test_error": error + seed,
        }
        for seed in range(seeds)
    ]  # fmt: skip


def test_points_are_compared_at_the_same_density():
    masks = {1: {"leaf": np.array([[True, True, False], [True, False, True]])}}
    rival = [result(d, e, epochs, number) for d, e, epochs, number in (
        (1.0, 1.0, 0, 0), (0.04, 2.0, 10, 1), (0.01, 4.0, 20, 1), (0.0025, 9.0, 40, 1)
    )]  # fmt: skip
    rivals = [point for members in rival for point in points(members, masks.get)]
    assert [round(density(point), 4) for point in rivals] == [1.0, 0.04, 0.01, 0.0025]
    assert rivals[1]["overlap"] == pytest.approx(1 / 3)
    assert rivals[0]["overlap"] is None
    ours = [
        point
        for d, error in ((0.2, 0.9), (0.02, 2.5), (0.005, 7.0), (0.001, 9.0))
        for point in points(result(d, error), masks.get)
    ]
    compared = against(ours, rivals)  # 0.2 is dense, 0.001 outside of what the rival has
    assert [entry["density"] for entry in compared] == pytest.approx([0.005, 0.02])
    assert [entry["rival_test_error"] for entry in compared] == pytest.approx([7.0, 3.5])
    assert [entry["rival_search_epochs"] for entry in compared] == pytest.approx([30, 15])
    assert [entry["on_envelope"] for entry in compared] == [True, True]
    assert sparsest_matching(ours, rivals[0]) is ours[0]
    assert sparsest_matching(ours[1:], rivals[0]) is None
    assert best(ours) is ours[0]
    assert [density(point) for point in envelope(ours)] == pytest.approx([0.001, 0.005, 0.02, 0.2])


def of_density(density, error, epochs=10):
    return {
        "round": 1, "search_epochs": epochs, "hyperparameters": {"initial": density},
        "density": [density], "test_error": summary([error]), "validation_error": summary([error]),
    }  # fmt: skip


def test_a_tie_is_not_ahead():
    # The same errors but for the rounding of a mean: 1.1 + 1.3 is not 1.2 + 1.2 in floating point.
    level, same = summary([1.1, 1.3, 0.1]), summary([0.1, 1.2, 1.2])
    rival = [of_density(0.04, 1.0), of_density(0.01, 1.0), of_density(0.001, 1.0)]
    for density_, found in ((0.04, 1.0), (0.02, 1.0), (0.02, 1.0 - 1e-13)):
        row = {"against_imp": against([of_density(density_, found)], rival)}
        assert standing(row).all == Count(0, 1)
    row = {"against_imp": against([of_density(0.02, 0.99)], rival)}
    assert standing(row).all == Count(1, 1)
    # At the threshold of "by more than two standard errors" neither is ahead.
    row["against_imp"][0]["difference"] = {
        "mean": -0.2,
        "std": 0.1414213562373095,
        "values": [1, 2],
    }
    assert standing(row).clear == (0, 0)
    # "Not above" takes a tie, whatever the rounding.
    dense = of_density(1.0, 9) | {"validation_error": level}
    assert sparsest_matching([of_density(0.1, 9) | {"validation_error": same}], dense)
    dense, level = of_density(1.0, 9) | {"validation_error": same}, {"validation_error": level}
    assert sparsest_matching([of_density(0.1, 9) | level], dense)
    # "Lower than all sparser ones" does not; of the same density only the lower one can be.
    ties = [of_density(0.1, 2.0), of_density(0.1, 1.5), of_density(0.2, 1.5 - 1e-13)]
    assert envelope(ties) == envelope(ties[::-1]) == [ties[1]]
    # Of several with the lowest error the cheapest, then the sparsest.
    three = [of_density(0.3, 1.5), of_density(0.2, 1.5, 20), of_density(0.4, 1.5 - 1e-13)]
    assert best(three) is best(three[::-1]) is three[0]


def seeds_of(number, densities, errors):
    """A point with a value for each seed."""
    return {
        "round": number, "search_epochs": 10 * number, "hyperparameters": {}, "density": densities,
        "test_error": summary(errors), "validation_error": summary(errors),
    }  # fmt: skip


def test_differences_are_paired_by_seed():
    rival = [seeds_of(1, [0.04, 0.04], [1.0, 3.0]), seeds_of(2, [0.01, 0.01], [2.0, 5.0])]
    ours = [seeds_of(1, [0.02, 0.01], [1.2, 4.9]), seeds_of(1, [0.04, 0.005], [0.5, 5.5])]
    apart, clear = against(ours, rival)  # sorted by density: 0.015, 0.0225
    assert apart["rival_test_error"] == pytest.approx((1.5 + 5) / 2)
    assert apart["difference"]["values"] == pytest.approx([-0.3, -0.1])
    # Beyond the rival's rounds its last one counts.
    assert clear["difference"]["values"] == pytest.approx([-0.5, 0.5])
    worse = seeds_of(1, [0.03, 0.03], [9.0, 9.0])  # than one that is sparser
    assert [e["on_envelope"] for e in against([*ours, worse], rival)] == [True, True, False]
    row = {
        "against_imp": [apart, clear], "model": "lenet5", "dataset": "mnist",
        "dense": {"test_error": summary([1.0, 1.2])},
    }  # fmt: skip
    assert standing(row) == Standing(
        Count(1, 2), Count(1, 2), Count(0, 0), clear=(0, 0)
    )  # one is level
    apart["difference"], apart["search_epochs"] = summary([-0.3, -0.29]), 3
    clear["difference"], clear["on_envelope"] = summary([0.3, 0.29]), False
    assert standing(row) == Standing(Count(1, 2), Count(1, 1), Count(1, 1), clear=(1, 1))
    assert "ahead at 1 and behind at 1" in comparison(row)[0]
    line = "| lenet5 on mnist | 1.10 ± 0.14 % | 1 of 2 | 1 of 1 | 1 of 1 | 1 | 1 |"
    assert line in overview([row])
    apart["difference"] = clear["difference"] = summary([-0.3])
    assert standing(row).clear is None
    assert "standard errors" not in comparison(row)[0]
    assert "±" not in "".join(comparison(row))
    assert standing({}) is None


def test_every_method_has_its_members():
    config = Config()
    for method in METHODS:
        settings = config.settings(method)
        assert {member["seed"] for member in settings["members"]} == {0, 1, 2}
        assert settings["rounds"] == {"cs": 3, "imp": 20, "imp_continued": 20}.get(method, 1)
    searches = Config(initial=(-0.1, 0.0), penalty=(0, 1e-6), seeds=(3, 4)).members("cs")
    assert len({tuple(member.items()) for member in searches}) == 8


@pytest.mark.parametrize(("method", "member"), [("cs", 3), ("imp", 0)])
def test_a_ticket_can_be_read_back(finished, method, member):
    output, _ = finished
    folder = output / "lenet300_mnist" / method
    rows = json.loads((folder / "result.json").read_text())["rows"]
    members = 1 + max(number for number, row in enumerate(rows) if row["round"] == rows[0]["round"])
    row = rows[len(rows) - members + member]
    network = check_read_back(folder, row, member=member)
    kernels = [leaf for leaf in jax.tree.leaves(network.params) if leaf.ndim > 1]
    assert sum(int((leaf != 0).sum()) for leaf in kernels) <= row["nonzeros"]
    assert network.seed == row["seed"]
