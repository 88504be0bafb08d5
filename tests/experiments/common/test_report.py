"""What a report.md is made of."""

from experiments.common.report import FigureFile, MadeBy, origin, seed_list, write_markdown


def test_a_figure_that_was_not_drawn_is_not_in_the_report(tmp_path):
    (tmp_path / "drawn.png").touch()
    figures = [FigureFile("Drawn", "drawn.png"), FigureFile("Not drawn", "other.png")]
    write_markdown(tmp_path, {}, ["# Title", *figures, "![a](b) c"])
    assert (tmp_path / "report.md").read_text() == "# Title\n\n![Drawn](drawn.png)\n\n![a](b) c\n"


def test_only_the_place_of_what_made_it_is_filled(tmp_path):
    report = {"command": "a command", **origin(), "rows": []}
    write_markdown(tmp_path, report, ["{made_by}", MadeBy(), "The end."])
    first, made, last = (tmp_path / "report.md").read_text().split("\n\n")
    assert (first, last) == ("{made_by}", "The end.\n")
    assert made.startswith("Made by `a command` on ")


def test_rows_with_fewer_seeds_are_named():
    rows = [{"name": "long", "seeds": [0, 1]}, {"name": "short", "seeds": [1]}]
    assert seed_list(rows) == "0, 1 (short: 1)"
    assert seed_list(rows[:1]) == "0, 1"
