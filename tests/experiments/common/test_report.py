"""What a report.md is made of."""

from experiments.common.report import figure, write_markdown


def test_a_figure_that_was_not_drawn_is_not_in_the_report(tmp_path):
    (tmp_path / "drawn.png").touch()
    parts = ["# Title", figure("Drawn", "drawn.png"), figure("Not drawn", "other.png"), "![a](b) c"]
    write_markdown(tmp_path, {}, parts)
    assert (tmp_path / "report.md").read_text() == "# Title\n\n![Drawn](drawn.png)\n\n![a](b) c\n"
