"""One run of a short sweep on a part of MNIST, and the figures of all sweeps."""

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from experiments.guide_figures import __main__ as command
from experiments.guide_figures import sweeps
from experiments.guide_figures.__main__ import ROWS, Config
from experiments.guide_figures.figures import figures
from experiments.guide_figures.published import published_figures
from tests.experiments import smoke

RESULTS = Path(__file__).parents[2] / "results" / "guide_figures"


@pytest.fixture(scope="module")
def made(small_mnist, tmp_path_factory):
    """The folder, with one run of learning-compression."""
    config = Config(rows=("learning_compression",), epochs=1, results=tmp_path_factory.mktemp("a"))
    with pytest.MonkeyPatch.context() as patch, smoke.loading(command, small_mnist):
        patch.setattr(sweeps, "FIRST_MU", (1e-2,))
        patch.setattr(sweeps, "GROWTH", (1.5,))
        patch.setattr(Figure, "savefig", lambda self, path, **options: path.touch())
        command.main(config, "python -m a.command --rows learning_compression")
    return config.results


def test_runs_and_reports(made):
    report = json.loads((made / "report.json").read_text())
    assert report["command"] == "python -m a.command"  # the one that makes all rows
    (row,) = report["rows"]
    assert (row["name"], row["epochs"], row["weights"]) == ("learning_compression", 1, 266_200)
    (run,) = row["runs"]
    assert (run["mu"], run["growth"], run["nonzeros"]) == (1e-2, 1.5, sweeps.KAPPA)
    assert 0 < run["relative_gap"] < 1
    assert row["dense_error"] < run["validation_error"] < 90
    assert "](learning_compression.png)\n" in (made / "report.md").read_text()
    assert [path.name for path in made.glob("*.png")] == ["learning_compression.png"]


@pytest.fixture(scope="module")
def stored():
    """The rows of the stored report, and the figures of them."""
    rows = {row["name"]: row for row in json.loads((RESULTS / "report.json").read_text())["rows"]}
    return rows, figures(rows)


def points(axis):
    """The points of each line that has a name, by its name."""
    lines = {line.get_label(): line.get_xydata() for line in axis.lines}
    return {name: xy for name, xy in lines.items() if not name.startswith("_")}


def test_learning_compression_is_drawn_from_too_small_to_too_large(stored):
    rows, drawn = stored
    row = rows["learning_compression"]
    left, right = drawn["learning_compression.png"].axes
    for axis, name, times in ((left, "validation_error", 1), (right, "relative_gap", 100)):
        for growth in sweeps.GROWTH:
            runs = [run for run in row["runs"] if run["growth"] == growth]
            assert [run["mu"] for run in runs] == list(sweeps.FIRST_MU)
            expected = [[run["mu"], times * run[name]] for run in runs]
            line = points(axis)[f"times {growth:g} at each L step"]
            np.testing.assert_allclose(line, expected)
            if axis is left:  # as the page says
                assert 0 < line[:, 1].argmin() < len(line) - 1
            else:
                assert (np.diff(line[:, 1]) < 0).all()
        assert axis.get_xlabel() == r"$\mu$ in the first L step"
    assert [text.get_text() for text in left.texts] == ["dense start"]


def test_the_other_figures_show_their_rows(stored):
    rows, drawn = stored
    assert list(drawn) == [f"{name}.png" for name in ROWS]

    dense, compressed = drawn["getting_started.png"].axes
    assert dense.get_title() == "dense: 100 weights, 0 exact zeros"
    assert compressed.get_title() == "compressed: 5 weights, 95 exact zeros"
    assert np.isfinite(compressed.lines[0].get_ydata()).nonzero()[0].tolist() == [0, 1, 2, 3, 4]

    density, multiplier = drawn["constrained_l0.png"].axes
    for run in rows["constrained_l0"]["runs"]:
        name = f"ki = {run['ki']:g}: error {run['validation_error']:.2f} %"
        expected = 100 * np.array(run["expected_density"])
        np.testing.assert_allclose(points(density)[name][:, 1], expected)
        np.testing.assert_allclose(points(multiplier)[name][:, 1], run["multiplier"])
    assert points(density)["asked for"][0, 1] == 100 * rows["constrained_l0"]["target"]

    left, error = (axis.lines[0].get_xydata() for axis in drawn["gated_weight_decay.png"].axes)
    runs = rows["gated_weight_decay"]["runs"]
    np.testing.assert_allclose(left, [[run["decay"], run["nonzeros"]] for run in runs])
    np.testing.assert_allclose(error, [[run["decay"], run["validation_error"]] for run in runs])

    (axis,) = drawn["tickets.png"].axes
    lines = points(axis)
    assert lines.keys() == {"penalty 1e-08", "penalty 3e-05"}
    for run in rows["tickets"]["runs"]:
        share = 100 * run["weights_left"] / rows["tickets"]["weights"]
        line = lines[f"penalty {run['penalty']:g}"]
        assert line[line[:, 0] == run["initial"], 1].tolist() == [pytest.approx(share)]


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="--epochs must be positive; got 0"):
        Config(epochs=0)
    with pytest.raises(ValueError, match="--rows must be of getting_started, .*; got other"):
        Config(rows=("other",))


def test_published_results_stand_beside_ours():
    drawn = published_figures(RESULTS.parent)
    names = ("lc_lenet300", "constrained_l0", "tickets")
    assert list(drawn) == [f"published_{name}.png" for name in names]
    reports = {
        name: json.loads((RESULTS.parent / name / "report.json").read_text())["rows"]
        for name in names
    }
    rows = {row["name"]: row for row in reports["lc_lenet300"]}
    (axis,) = drawn["published_lc_lenet300.png"].axes
    *ours, published = (line.get_xdata() for line in axis.lines)
    names = [name for name, row in rows.items() if row["published"]]
    assert list(published) == [rows[name]["published"]["test_error"] for name in names]
    assert [list(line) for line in ours] == [rows[name]["test_error"]["values"] for name in names]

    rows = {row["name"]: row for row in reports["constrained_l0"]}
    (axis,) = drawn["published_constrained_l0.png"].axes
    lines = points(axis)
    saved = rows["lenet5_10"]["published"]["saved_runs"]
    expected = [100 * saved["expected_density"], saved["test_error"]]
    assert lines["the authors' saved runs"][0].tolist() == expected
    row = rows["lenet5_10"]
    density, errors = lines["LeNet5, at most 10 %"].T
    np.testing.assert_allclose(density, 100 * np.array(row["expected_density"]))
    assert errors.tolist() == row["test_error"]["values"]

    (row,) = (row for row in reports["tickets"] if row["name"] == "resnet20_cifar10_cs")
    (axis,) = drawn["published_tickets.png"].axes
    lines = points(axis)
    density, errors = lines["ours, one round and one seed"].T
    np.testing.assert_allclose(density, [100 * point["density"][0] for point in row["points"]])
    assert errors.tolist() == [point["test_error"]["mean"] for point in row["points"]]
    assert lines["published: the sparsest as good as dense"][0, 0] == 12.3
    assert lines["published: the best"][0, 1] == 8.46


def test_a_folder_without_other_reports_has_no_published_results(made):
    assert published_figures(made) == {}
