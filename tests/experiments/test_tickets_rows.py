"""How points of several runs become the rows of one report."""

import json

import pytest

from experiments.common.report import read_report
from experiments.common.runner import rewrite
from experiments.tickets.config import Config
from experiments.tickets.recipe import RECIPE
from experiments.tickets.report import (
    check_comparable,
    gather,
    overview,
    parts,
    rows_of,
)


def text_of(rows):
    return "\n\n".join(part if isinstance(part, str) else part.markdown() for part in parts(rows))


def point(number, density, error, **hyperparameters):
    """Of one seed."""
    return {
        "round": number, "search_epochs": 10 * number, "hyperparameters": hyperparameters,
        "nonzeros": [int(1000 * density)], "density": [density], "mask_jaccard": None,
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
    first = gather([], rows(imp=PRUNED, cs=[point(1, 0.03, 2.2, initial=-0.1)]))
    more = [
        point(1, 0.005, 3.0, initial=-0.3),
        point(1, 0.3, 1.9, initial=0.0),
        point(2, 0.02, 2.1, initial=-0.1),
    ]
    imp, cs = sorted(gather(first, rows("second", cs=more)), key=lambda row: row["name"])[::-1]
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
    first = gather([], rows(cs=[point(1, 0.03, 2.2, initial=-0.1)]))
    (again,) = gather(first, rows("second", cs=[point(1, 0.04, 2.0, initial=-0.1)]))
    assert [p["density"] for p in again["points"]] == [[0.04]]
    assert [run["command"] for run in again["runs"]] == ["second"]
    assert gather([again], rows("second", cs=[point(1, 0.04, 2.0, initial=-0.1)])) == [again]


def test_a_control_by_itself_leaves_the_others_and_knows_the_dense_network():
    first = gather([], rows(imp=PRUNED))
    both = gather(first, rows("second", random=[point(1, 0.1, 1.5, fraction=0.9)]))
    assert [row["method"] for row in both] == ["imp", "random"]
    assert both[0] == first[0]
    assert both[1]["matching"]["density"] == [0.1]


def test_the_dense_network_alone_makes_a_row():
    (row,) = gather([], rows(imp=PRUNED[:1]))
    assert (row["matching"], row["best"], row["chosen"]) == (None, None, "dense")
    assert row["test_error"] == PRUNED[0]["test_error"]


def test_rows_of_other_settings_go_and_those_of_other_networks_stay():
    longer = Config(preset="smoke", seeds=(0,), epochs=5)
    other = rows(config=Config(model="lenet5", seeds=(0,)), cs=[point(1, 0.5, 1.0, initial=0.1)])
    held = gather([], other)
    held = gather(held, rows(imp=PRUNED, cs=[point(1, 0.03, 2.2, initial=-0.1)]))
    held = gather(held, rows("third", longer, cs=[point(1, 0.02, 2.1, initial=-0.1)]))
    assert [row["name"] for row in held] == ["lenet300_mnist_cs", "lenet5_mnist_cs"]
    assert [run["command"] for run in held[0]["runs"]] == ["third"]
    text = text_of(held)
    assert text.index("## LeNet300 on MNIST") < text.index("## LeNet5 on MNIST")
    check_comparable(held, longer)
    with pytest.raises(ValueError, match="--results holds lenet300_mnist_cs of 5 epochs a round"):
        check_comparable(held, CONFIG)


def test_one_seed_states_no_deviation_and_no_jaccard_index():
    found = gather([], rows(imp=PRUNED, cs=[point(1, 0.03, 2.2, initial=-0.1)]))
    text = text_of(found)
    assert "of seed 0. Matching" in text
    assert "±" not in text
    assert "jaccard.png" not in text
    drawn = RECIPE.figures(found, {})
    assert list(drawn) == ["lenet300_mnist_tickets.png", "lenet300_mnist_cost.png"]


OUTSIDE = Config(preset="smoke", seeds=(0,), ticket_scale="outside")


def test_rows_of_other_options_are_kept_apart():
    """With the scale inside and outside: the same network and baseline, but never one row."""
    first = rows(imp=PRUNED, cs=[point(1, 0.03, 2.2, initial=-0.1), point(1, 0.2, 2, initial=0.1)])
    held = gather([], first)
    held = gather(held, rows("second", OUTSIDE, cs=[point(1, 0.02, 2.3, initial=-0.1)]))
    folded, outside = [row for row in held if row["method"] == "cs"]
    assert folded["name"] == "lenet300_mnist_cs"
    assert outside["name"] == "lenet300_mnist_cs_rewound_ticket_scale_outside"
    assert (outside["settings"]["ticket_scale"], places(outside)) == ("outside", [(1, -0.1)])
    assert (folded["settings"]["ticket_scale"], len(places(folded))) == ("folded", 2)
    for row in (folded, outside):
        assert row["dense"] == PRUNED[0] | {"run": 0}
        assert row["against_imp"]
    # A point made again in one way replaces the one of that way.
    held = gather(held, rows("third", OUTSIDE, cs=[point(1, 0.01, 2.3, initial=-0.1)]))
    assert [p["density"] for p in held[1]["points"]] == [[0.01]]
    assert held[0]["points"] == folded["points"]
    text = text_of(held)
    rewound = "rewound between rounds"
    for row, way in ((folded, rewound), (outside, f"{rewound}, ticket scale outside")):
        assert f"| [{row['name']}] | {way} |" in text
        assert f"Continuous sparsification, {way}: `ticket_scale`" in text
        assert f"| cs, {way} | initial -0.1 |" in text
        assert f"LeNet300 on MNIST, {way} |" in overview(held)[1].markdown()
    assert "Validation error at the same density" not in text  # 0.01 is sparser than all others
    held = gather(held, rows("fourth", OUTSIDE, cs=[point(1, 0.03, 1.9, initial=-0.2)]))
    assert "ticket scale outside it is lower at 1 of 1 tickets; the mean difference is -0.30" in (
        text_of(held)
    )
    (legend,) = RECIPE.figures(held, {})["lenet300_mnist_tickets.png"].legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert f"continuous sparsification, {rewound}, ticket scale outside" in labels


def test_the_report_is_written_anew_from_its_rows(tmp_path, capsys):
    """The rows of report.json are enough to write it anew."""
    found = gather([], rows(imp=PRUNED, cs=[point(1, 0.03, 2.2, initial=-0.1)]))
    report = {"experiment": "tickets", "rows": found}
    (tmp_path / "report.json").write_text(json.dumps(report))
    rewrite(tmp_path)
    assert (tmp_path / "report.md").read_text() == text_of(found) + "\n"
    assert "lenet300_mnist_cost.png" in capsys.readouterr().out
    assert read_report(tmp_path)["rows"] == json.loads(json.dumps(found))
    assert read_report(tmp_path / "nowhere")["rows"] == []
