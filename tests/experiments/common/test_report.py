"""What a report.md is made of."""

from experiments.common.report import FigureFile, write_markdown


def test_a_figure_that_was_not_drawn_is_not_in_the_report(tmp_path):
    (tmp_path / "drawn.png").touch()
    figures = [FigureFile("Drawn", "drawn.png"), FigureFile("Not drawn", "other.png")]
    write_markdown(tmp_path, {}, ["# Title", *figures, "![a](b) c"])
    assert (tmp_path / "report.md").read_text() == "# Title\n\n![Drawn](drawn.png)\n\n![a](b) c\n"
