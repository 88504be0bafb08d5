"""Populations of searches on a part of MNIST."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from experiments.tickets import recipe
from experiments.tickets.config import METHODS, PUBLISHED, VARIANTS, Config, option_notes, row_name
from experiments.tickets.config import option_title as title
from experiments.tickets.recipe import RECIPE
from sparsejax.deploy import load_sparse
from tests.experiments import smoke

REWOUND = VARIANTS["rewound"]


def config(output, **flags):
    defaults = {
        "preset": "smoke", "seeds": (0, 1), "epochs": 1, "batch_size": 100,
        "initial": (-0.01, 0.05), "densities": (0.1,), "l0_penalties": (1e-6,), "devices": 1,
        "method": ("cs", "imp", "random", "l0"), "ticket_scale": "outside", "output": output,
    }  # fmt: skip
    return Config(**defaults | flags)


@pytest.fixture(scope="module")
def dataset(mnist):
    """25 steps an epoch: the programs run slowly, since they are compiled quickly."""
    return smoke.part(mnist, train=2500, others=500)


@pytest.fixture(scope="module")
def finished(dataset, tmp_path_factory):
    chosen = config(tmp_path_factory.mktemp("smoke") / "run")
    return chosen, *smoke.run(RECIPE, recipe, dataset, chosen)


def test_searches_trains_the_tickets_and_reports(finished):
    chosen, printed, rows = finished
    by_method = {row["method"]: row for row in rows}
    assert list(by_method) == ["cs", "imp", "random", "l0"]
    for row in rows:
        own = "_rewound_ticket_scale_outside" if row["method"] == "cs" else ""
        assert row["name"] == f"lenet300_mnist_{row['method']}{own}"
        assert row["seeds"] == [0, 1]
        assert row["test_error"] == row[row["chosen"]]["test_error"]
        assert row["best"] in row["points"]
    # Iterative pruning: the whole network, then a fifth less each round, at an epoch a round.
    pruned = by_method["imp"]["points"]
    assert [point["nonzeros"] for point in pruned] == [[266200] * 2, [212960] * 2, [170368] * 2]
    assert [point["search_epochs"] for point in pruned] == [0, 1, 2]
    assert pruned[0]["test_error"]["mean"] < 60
    assert by_method["random"]["dense"] == pruned[0]
    assert by_method["random"]["points"][0]["nonzeros"] == [26620] * 2
    assert by_method["random"]["points"][0]["mask_jaccard"] == pytest.approx(0.1 / 1.9, rel=0.1)
    # Continuous sparsification: two starts, two rounds, and the lower start is the sparser.
    searched = by_method["cs"]["points"]
    assert [point["round"] for point in searched] == [1, 1, 2, 2]
    low, high = searched[:2]
    assert max(low["nonzeros"]) < min(high["nonzeros"])
    held = load_sparse(chosen.folder / "lenet300_mnist" / "cs" / "round_2" / "masks.safetensors")
    left = sum(leaf.sum(axis=(1, 2)) for leaf in jax.tree.leaves(held["mask"]))
    wanted = [n for point in searched[2:] for n in point["nonzeros"]]
    assert sorted(left.tolist()) == sorted(wanted)
    # Tickets were trained with the scale outside of their weights: two seeds of two starts.
    np.testing.assert_allclose(held["scale"], 1 + np.exp([0.01, -0.05] * 2), rtol=1e-6)
    assert by_method["cs"]["settings"]["ticket_scale"] == "outside"
    assert "ticket_scale" not in by_method["imp"]["settings"]
    report = (chosen.report_folder / "report.md").read_text()
    options = "rewound between rounds, ticket scale outside"
    assert f"| [lenet300_mnist_cs_rewound_ticket_scale_outside] | {options} | 1 | 2 |" in report
    assert "| [lenet300_mnist_imp] |  | 1 | 2 |" in report
    assert f"Continuous sparsification, {options}: `ticket_scale` outside;" in report
    assert "[lenet300_mnist_random]" in printed
    for name in ("tickets", "cost", "jaccard"):
        assert (chosen.report_folder / f"lenet300_mnist_{name}.png").exists()


def test_the_figures_show_every_point(finished):
    _, _, rows = finished
    drawn = RECIPE.figures(rows, {})
    (axis,) = drawn["lenet300_mnist_tickets.png"].axes
    (legend,) = drawn["lenet300_mnist_tickets.png"].legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert {"the dense network", "continuous sparsification"} <= set(labels)
    assert len(labels) == 1 + len(rows)
    for lines, row in zip(axis.containers, rows, strict=True):
        found = sorted(zip(*lines[0].get_data(), strict=True))
        expected = [
            (100 * np.mean(point["density"]), point["test_error"]["mean"])
            for point in row["points"]
        ]
        np.testing.assert_allclose(found, sorted(expected))
    (axis,) = drawn["lenet300_mnist_cost.png"].axes
    for points, row in zip(axis.collections, rows, strict=True):
        epochs = points.get_offsets()[:, 1].tolist()
        assert epochs == [point["search_epochs"] for point in row["points"]]
    (axis,) = drawn["lenet300_mnist_jaccard.png"].axes
    assert axis.lines[0].get_label() == "independent masks"
    assert len(axis.collections) == len(rows)


def test_what_is_there_is_not_searched_again(finished, dataset):
    chosen, first, rows = finished
    again = dataclasses.replace(chosen, resume=True)
    printed, found = smoke.run(RECIPE, recipe, dataset, again, drawn=False)
    lines = first.splitlines(keepends=True)
    assert printed == "".join(line for line in lines if not line.endswith(" begins\n"))
    assert found == rows


def test_more_rounds_go_on_from_those_that_are_there(finished, dataset, tmp_path):
    chosen, _, before = finished
    shutil.copytree(chosen.folder, tmp_path / "run")
    longer = config(tmp_path / "run", resume=True, rounds=3, pruning_rounds=3, method=("cs", "imp"))
    _, found = smoke.run(RECIPE, recipe, dataset, longer, drawn=False)
    assert found[2:] == before[2:]  # what was not searched further
    for more, fewer in zip(found[:2], before[:2], strict=True):
        assert more["points"][: len(fewer["points"])] == fewer["points"]
        assert more["points"][-1]["round"] == 3


def test_what_has_ended_so_far_is_reported(finished, dataset, tmp_path):
    chosen, _, before = finished
    shutil.copytree(chosen.folder / "lenet300_mnist", tmp_path / "run" / "lenet300_mnist")
    file = tmp_path / "run" / "lenet300_mnist" / "cs" / "result.json"
    held = json.loads(file.read_text())
    first = [row for row in held["rows"] if row["round"] == 1]
    file.write_text(json.dumps(held | {"rows": first, "ended": False}))
    shutil.rmtree(tmp_path / "run" / "lenet300_mnist" / "l0")
    partial = config(tmp_path / "run", partial=True, rounds=4)  # more rounds are under way
    _, found = smoke.run(RECIPE, recipe, dataset, partial, drawn=False)
    assert [row["method"] for row in found] == ["cs", "imp", "random"]
    assert found[0]["points"] == before[0]["points"][:2]
    assert [row["points"] for row in found[1:]] == [row["points"] for row in before[1:3]]
    nothing = config(tmp_path / "elsewhere", partial=True)
    with pytest.raises(ValueError, match="--partial: nothing of these rows has ended in"):
        smoke.run(RECIPE, recipe, dataset, nothing)
    other = config(tmp_path / "run", partial=True, learning_rate=0.2)
    with pytest.raises(ValueError, match=r"learning_rate: 0.1 there, 0.2 here"):
        smoke.run(RECIPE, recipe, dataset, other)


def test_a_shorter_search_does_not_replace_a_longer_one(finished, dataset, tmp_path):
    _, _, rows = finished
    longer = rows[0] | {"settings": rows[0]["settings"] | {"epochs": 20}}
    (tmp_path / "report.json").write_text(json.dumps({"rows": [longer]}))
    name = "lenet300_mnist_cs_rewound_ticket_scale_outside"
    message = f"--results holds {name} of 20 epochs a round, which rows of 1 may"
    with pytest.raises(ValueError, match=message):
        smoke.run(RECIPE, recipe, dataset, config(tmp_path / "run", results=tmp_path))


@pytest.mark.parametrize(("method", "member"), [("cs", 3), ("imp", 0)])
def test_a_ticket_can_be_read_back(finished, dataset, method, member):
    folder = finished[0].folder / "lenet300_mnist" / method
    found = smoke.check_readable(folder, dataset, member=member)
    rows = json.loads((folder / "result.json").read_text())["rows"]
    row = [row for row in rows if row["round"] == 2][member]
    assert found.result.items() >= row.items()
    kernels = [leaf for leaf in jax.tree.leaves(found.network.params) if leaf.ndim > 1]
    assert sum(int((leaf != 0).sum()) for leaf in kernels) <= row["nonzeros"]
    with pytest.raises(ValueError, match="--member must be in 0 to"):
        smoke.check_readable(folder, dataset, member=4)
    with pytest.raises(ValueError, match=r"--round must be one of .* it has none for 7"):
        smoke.check_readable(folder, dataset, round=7)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"epochs": -1}, "--epochs must be positive; got -1"),
        (
            {"epochs": 1},
            "--epochs must be at least 2, since weights are rewound to that epoch",
        ),
        ({"densities": (0.1, 1.5)}, r"--densities must be in \(0, 1\); got 1.5"),
        ({"seeds": ()}, "--seeds must name at least one seed; got none"),
        ({"learning_rate": 0.0}, "--learning-rate must be positive; got 0.0"),
        ({"devices": 0}, "--devices must be positive; got 0"),
        ({"vmap_size": 0}, "--vmap-size must be positive; got 0"),
        (
            {"beta": "staircase", "epochs": 1, "preset": "smoke"},
            "--beta staircase needs at least 2",
        ),
        (
            {"variant": "published", "epochs": 1, "preset": "smoke"},
            "2 epochs a round; got 1",
        ),
        ({"pruning_rounds": -1}, "--pruning-rounds must be at least 0; got -1"),
        ({"model": "resnet20", "dataset": "mnist"}, "--dataset must be cifar10 for resnet20"),
        ({"dataset": "cifar10"}, "got --model lenet300 --dataset cifar10"),
        ({"width": 0.5}, "--width and --dtype are for --model resnet20 and vgg16 alone"),
    ],
)
def test_bad_flags_are_named(flags, message):
    with pytest.raises(ValueError, match=message):
        Config(**flags).check()


def test_flags_become_settings():
    chosen = smoke.parsed(
        Config, "--model", "vgg16", "--method", "cs", "imp", "--initial=-0.5", "0.1", "--penalty",
        "1", "2", "--variant", "published", "--beta", "smooth", "--fraction", "0.3",
        "--densities", "0.4",
        "--l0-penalties", "3", "--epochs", "7", "--rounds", "8", "--pruning-rounds", "0",
        "--learning-rate", "9", "--weight-decay", "10", "--batch-size", "11", "--width", "0.5",
        "--dtype", "bfloat16", "--devices", "2", "--vmap-size", "1", "--seeds", "5", "--partial",
    )  # fmt: skip
    expected = {
        "model": "vgg16", "dataset": "cifar10", "epochs": 7, "learning_rate": 9,
        "weight_decay": 10, "batch_size": 11, "width": 0.5, "dtype": "bfloat16",
    }  # fmt: skip
    for method, own in {
        "cs": {"rounds": 8, **PUBLISHED, "beta": "smooth"},
        "imp": {"rounds": 0, "members": [{"fraction": 0.3, "seed": 5}]},
        "l0": {"members": [{"penalty": 3, "seed": 5}]},
        "random": {"members": [{"fraction": 0.6, "seed": 5}]},
    }.items():
        assert chosen.settings(method).items() >= (expected | own).items()
    grid = [(m["initial"], m["penalty"]) for m in chosen.members("cs")]
    assert grid == [(-0.5, 1), (-0.5, 2), (0.1, 1), (0.1, 2)]
    assert (chosen.methods(), chosen.group) == (("cs", "imp"), "vgg16_cifar10")
    assert (chosen.devices, chosen.vmap_size, chosen.partial) == (2, 1, True)
    for name in PUBLISHED:
        for way in VARIANTS.values():
            flag = f"--{name.replace('_', '-')}"
            assert smoke.parsed(Config, flag, way[name]).options()[name] == way[name]
    with pytest.raises(SystemExit):
        smoke.parsed(Config, "--so-far")


def test_every_method_has_its_members():
    for method in METHODS:
        settings = Config().settings(method)
        assert {member["seed"] for member in settings["members"]} == {0, 1, 2}
        assert settings["rounds"] == {"cs": 3, "imp": 20, "imp_continued": 20}.get(method, 1)
    searches = Config(initial=(-0.1, 0.0), penalty=(0, 1e-6), seeds=(3, 4)).members("cs")
    assert len({tuple(member.items()) for member in searches}) == 8


def test_a_variant_is_all_options_at_once():
    assert Config().options() == REWOUND
    assert Config(variant="published").options() == PUBLISHED
    one = Config(variant="published", beta="smooth")
    assert one.options() == {**PUBLISHED, "beta": "smooth"}
    assert not PUBLISHED.keys() & Config().settings("imp").keys()
    for chosen, differing in ((REWOUND, 7), (PUBLISHED, 0)):
        assert option_notes(chosen, statistics=True).count("published code") == differing
    assert "ticket_statistics" not in option_notes(REWOUND, statistics=False)


@pytest.mark.parametrize(
    ("options", "expected", "name"),
    [
        (REWOUND, "rewound between rounds", "g_cs"),
        (PUBLISHED, "as the published code", "g_cs_published"),
        (
            PUBLISHED | {"beta": "smooth"},
            "as the published code, beta smooth",
            "g_cs_published_beta_smooth",
        ),
        (
            REWOUND | {"ticket_scale": "outside"},
            "rewound between rounds, ticket scale outside",
            "g_cs_rewound_ticket_scale_outside",
        ),
    ],
)
def test_options_have_titles_and_rows_of_other_options_other_names(options, expected, name):
    assert title(options) == expected
    assert row_name("g", "cs", options) == name
    assert row_name("g", "imp", {}) == "g_imp"
