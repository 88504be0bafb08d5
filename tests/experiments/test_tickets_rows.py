"""How points of several runs become the rows of one report."""

import json

import pytest

from experiments.tickets.config import Config
from experiments.tickets.figures import draw
from experiments.tickets.report import rows_in, write
from experiments.tickets.rows import check_comparable, gathered, rows_of


def point(number, density, error, **hyperparameters):
    """Of one seed."""
    return {
        "round": number, "search_epochs": 10 * number, "hyperparameters": hyperparameters,
        "nonzeros": [int(1000 * density)], "density": [density], "overlap": None,
        "test_error": {"mean": error, "std": 0.0, "values": [error]},
        "validation_error": {"mean": error, "std": 0.0, "values": [error]},
    }  # fmt: skip


CONFIG = Config(preset="smoke", seeds=(0,))
PRUNED = [point(0, 1.0, 2.0), point(1, 0.04, 2.5, fraction=0.9), point(2, 0.01, 4.0, fraction=0.9)]


def rows(command="first", config=CONFIG, **found):
    return rows_of(config, found, command)


def places(row):
    return [(p["round"], *p["hyperparameters"].values()) for p in row["points"]]


def test_points_of_several_runs_add_up():
    first = gathered([], rows(imp=PRUNED, cs=[point(1, 0.03, 2.2, initial=-0.1)]))
    more = [
        point(1, 0.005, 3.0, initial=-0.3),
        point(1, 0.3, 1.9, initial=0.0),
        point(2, 0.02, 2.1, initial=-0.1),
    ]
    imp, cs = sorted(gathered(first, rows("second", cs=more)), key=lambda row: row["name"])[::-1]
    assert places(cs) == [(1, -0.3), (1, -0.1), (1, 0.0), (2, -0.1)]
    assert [run["command"] for run in cs["runs"]] == ["first", "second"]
    assert [p["run"] for p in cs["points"]] == [1, 0, 1, 1]
    assert places(imp) == places(rows(imp=PRUNED)[0])
    # What follows from all of them together is found anew.
    assert cs["matching"]["density"] == [0.3]
    assert cs["best"]["density"] == [0.3]
    assert [found["density"] for found in cs["against_imp"]] == [0.02, 0.03]
    assert cs["dense"] == imp["dense"] == imp["points"][0]


def test_a_point_made_again_is_replaced_and_what_made_it_goes():
    first = gathered([], rows(cs=[point(1, 0.03, 2.2, initial=-0.1)]))
    (again,) = gathered(first, rows("second", cs=[point(1, 0.04, 2.0, initial=-0.1)]))
    assert [p["density"] for p in again["points"]] == [[0.04]]
    assert [run["command"] for run in again["runs"]] == ["second"]
    assert gathered([again], rows("second", cs=[point(1, 0.04, 2.0, initial=-0.1)])) == [again]


def test_a_control_by_itself_leaves_the_others_and_knows_the_dense_network():
    first = gathered([], rows(imp=PRUNED))
    both = gathered(first, rows("second", random=[point(1, 0.1, 1.5, fraction=0.9)]))
    assert [row["method"] for row in both] == ["imp", "random"]
    assert both[0] == first[0]
    assert both[1]["matching"]["density"] == [0.1]


def test_the_dense_network_alone_makes_a_row():
    (row,) = gathered([], rows(imp=PRUNED[:1]))
    assert (row["matching"], row["best"], row["chosen"]) == (None, None, "dense")
    assert row["test_error"] == PRUNED[0]["test_error"]


def test_rows_of_other_settings_go_and_those_of_other_networks_stay(tmp_path):
    longer = Config(preset="smoke", seeds=(0,), epochs=5)
    other = rows(config=Config(model="lenet5", seeds=(0,)), cs=[point(1, 0.5, 1.0, initial=0.1)])
    write(tmp_path, "other", other)
    write(tmp_path, "first", rows(imp=PRUNED, cs=[point(1, 0.03, 2.2, initial=-0.1)]))
    ours = write(tmp_path, "third", rows("third", longer, cs=[point(1, 0.02, 2.1, initial=-0.1)]))
    assert [row["name"] for row in ours] == ["lenet300_mnist_cs"]
    assert [row["name"] for row in rows_in(tmp_path)] == ["lenet300_mnist_cs", "lenet5_mnist_cs"]
    assert [run["command"] for run in ours[0]["runs"]] == ["third"]
    text = (tmp_path / "report.md").read_text()
    assert text.index("## lenet300 on mnist") < text.index("## lenet5 on mnist")
    check_comparable(rows_in(tmp_path), longer)
    with pytest.raises(ValueError, match="--results holds lenet300_mnist_cs of 5 epochs a round"):
        check_comparable(rows_in(tmp_path), CONFIG)
    assert json.loads((tmp_path / "report.json").read_text())["command"] == "third"


def test_one_seed_states_no_deviation_and_no_overlap(tmp_path):
    found = write(tmp_path, "first", rows(imp=PRUNED, cs=[point(1, 0.03, 2.2, initial=-0.1)]))
    report = (tmp_path / "report.md").read_text()
    assert "of seed 0 alone" in report
    assert "±" not in report
    assert "overlap.png" not in report
    assert [path.name for path in draw(tmp_path, found)] == [
        "lenet300_mnist_tickets.png", "lenet300_mnist_cost.png",
    ]  # fmt: skip
