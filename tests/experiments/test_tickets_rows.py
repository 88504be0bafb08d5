"""How points of several runs become the rows of one report."""

import json

import pytest

from experiments.tickets import options
from experiments.tickets.config import Config
from experiments.tickets.figures import draw
from experiments.tickets.report import headlines, rows_in, write, write_again
from experiments.tickets.rows import check_comparable, gathered, rows_of
from experiments.tickets.standing import overview


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


FOLDED = Config(preset="smoke", seeds=(0,), ticket_scale="folded")


def test_rows_of_other_options_are_kept_apart(tmp_path):
    """With the scale inside and outside: the same network and rival, but never one row."""
    first = rows(imp=PRUNED, cs=[point(1, 0.03, 2.2, initial=-0.1), point(1, 0.2, 2, initial=0.1)])
    write(tmp_path, "first", first)
    found = write(
        tmp_path, "second", rows("second", FOLDED, cs=[point(1, 0.02, 2.3, initial=-0.1)])
    )
    folded, outside = [row for row in found if row["method"] == "cs"]
    assert (folded["settings"]["ticket_scale"], places(folded)) == ("folded", [(1, -0.1)])
    assert (outside["settings"]["ticket_scale"], len(places(outside))) == ("outside", 2)
    for row in (folded, outside):
        assert row["dense"] == PRUNED[0] | {"run": 0}
        assert row["against_imp"]
    # A point made again in one way replaces the one of that way.
    found = write(tmp_path, "third", rows("third", FOLDED, cs=[point(1, 0.01, 2.3, initial=-0.1)]))
    assert [p["density"] for p in found[0]["points"]] == [[0.01]]
    assert found[1]["points"] == outside["points"]
    report = (tmp_path / "report.md").read_text()
    for way in ("ticket scale folded", "ticket scale outside"):
        assert f"| [lenet300_mnist_cs] | {way} |" in report
        assert f"Continuous sparsification, {way}: tickets are trained" in report
        assert f"| cs, {way} | initial -0.1 |" in report
        assert any(f"lenet300 on mnist, {way} |" in line for line in overview(found))
    assert draw(tmp_path, found)[0].name == "lenet300_mnist_tickets.png"


def test_rows_that_do_not_say_are_those_of_earlier_runs(tmp_path):
    """Their scale was folded, and the rest as it is by default."""
    write(
        tmp_path, "first", rows(config=FOLDED, imp=PRUNED, cs=[point(1, 0.03, 2.2, initial=-0.1)])
    )
    path = tmp_path / "report.json"
    now = path.read_text()
    held = json.loads(now)
    for row in held["rows"]:
        row["settings"] = {n: v for n, v in row["settings"].items() if n not in options.FORMER}
    path.write_text(json.dumps(held))
    assert rows_in(tmp_path) == json.loads(now)["rows"]
    assert headlines(held["rows"]) == headlines(rows_in(tmp_path))
    report = (tmp_path / "report.md").read_text()
    pictures = write_again(tmp_path)
    assert json.loads(path.read_text()) == json.loads(now)  # with who made it, and where
    assert (tmp_path / "report.md").read_text() == report
    assert all(picture.exists() for picture in pictures)
    both = write(tmp_path, "more", rows("more", FOLDED, cs=[point(1, 0.02, 2.2, initial=-0.2)]))
    assert [len(row["points"]) for row in both] == [2, 3]


def test_the_published_way_is_all_options_at_once():
    published = Config(published=True)
    assert published.chosen() == options.PUBLISHED
    assert options.title(published.settings("cs")) == "as the published code"
    assert Config().chosen() == options.DEFAULT
    one = Config(published=True, beta="smooth")
    assert one.chosen() == {**options.PUBLISHED, "beta": "smooth"}
    assert not options.FORMER.keys() & published.settings("imp").keys()
    assert options.identity({**options.FORMER, "epochs": 2}) == {"epochs": 2}
    for chosen in (options.DEFAULT, options.PUBLISHED, options.FORMER):
        assert options.sentence(chosen, statistics=True).count(";") == len(options.DEFAULT) - 1
