"""LeNet300 compressed on a part of MNIST."""

import json

import jax
import numpy as np
import pytest

from experiments.lc_lenet300 import recipe
from experiments.lc_lenet300.config import DEFAULTS, PRESETS, ROWS, Config
from experiments.lc_lenet300.recipe import RECIPE, plan
from tests.experiments import smoke


def config(output, **flags):
    return Config(preset="smoke", seeds=(0,), batch_size=250, output=output, **flags)


@pytest.fixture(scope="module")
def finished(small_mnist, tmp_path_factory):
    chosen = config(tmp_path_factory.mktemp("smoke") / "run", method=("l0", "l0_l2", "l1"))
    return chosen, *smoke.run(RECIPE, recipe, small_mnist, chosen)


def test_the_rows_have_the_agreed_form(finished):
    chosen, _, rows = finished
    assert [row["name"] for row in rows] == ["l0", "l1", "l0_l2"]
    row = rows[0]
    assert (row["model"], row["dataset"], row["method"]) == ("lenet300", "mnist", "l0")
    assert (row["preset"], row["seeds"], row["nonzeros"]) == ("smoke", [0], [5324])
    assert row["density"] == [5324 / 266200]
    assert row["published"]["test_error"] == 2.33
    for error in (row["test_error"], row["validation_error"]):
        assert error["values"] == [error["mean"]]
        assert error["std"] == 0
    assert len(row["live_units"][0]) == 4
    assert row["seconds"][0] > 0
    for name in (0, 2):
        assert rows[name]["nonzeros"] == [5324]
    # So few steps are too few for 2 % of the weights, but the dense reference has learned.
    held = (chosen.folder / "reference" / "seed_0" / "result.json").read_text()
    assert json.loads(held)["test_error"] < 40  # 90 would be chance


def test_the_published_figures_stand_beside_ours(finished):
    chosen, printed, _ = finished
    assert "2.33 %" in printed
    assert "344-210-100-10" in printed
    text = (chosen.report_folder / "report.md").read_text()
    assert "| l0 [l0] | relu | 2.33 % |" in text
    for name in ("pixels.png", "connectivity.png", "curves.png"):
        assert f"]({name})" in text
        assert (chosen.report_folder / name).exists()


def test_the_figures_show_every_network_once_and_the_curves_of_compressions(finished, small_mnist):
    chosen, _, rows = finished
    with smoke.loading(recipe, small_mnist):
        ended = {run.row: [run] for run in plan(chosen)}
    drawn = RECIPE.figures(rows, ended)
    assert list(drawn) == ["pixels.png", "connectivity.png", "curves.png"]
    assert list(drawn["pixels.png"].keywords["networks"]) == ["reference", "l0", "l1", "l0_l2"]
    curves = drawn["curves.png"].keywords["series"]
    assert list(curves) == ["l0", "l1", "l0_l2"]
    assert [len(seeds[0]) for seeds in curves.values()] == [8] * 3  # an entry for each L step
    assert {"error", "distance", "mu", "density"} <= curves["l0"][0][-1].keys()
    reference = {"reference": ended["reference"]}
    assert "curves.png" not in RECIPE.figures(rows, reference)


def test_resuming_what_has_ended_trains_nothing(finished, small_mnist):
    chosen, _, rows = finished
    before = smoke.results(chosen.folder)
    again = config(chosen.folder, method=("l0", "l0_l2", "l1"), resume=True)
    printed, found = smoke.run(RECIPE, recipe, small_mnist, again, drawn=False)
    assert printed.count("(already there)") == 5  # both references, too
    assert smoke.results(chosen.folder) == before
    assert found == rows


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"resume": True, "kappa": 100}, "kappa: 5324 there, 100 here"),
        ({"kappa": -1}, "kappa must be an integer >= 0; got -1"),
        ({"kappa": 266201}, "kappa must be .* to 266200; got 266201"),
        ({"mu": -1.0}, "mu_schedule must be positive"),
    ],
)
def test_bad_flags_are_named(flags, message, finished, small_mnist, tmp_path):
    output = finished[0].folder if "resume" in flags else tmp_path
    with pytest.raises(ValueError, match=message):
        smoke.run(RECIPE, recipe, small_mnist, config(output, method=("l0",), **flags))
    assert not list(tmp_path.glob("**/checkpoints"))  # before anything is trained


def test_flags_become_settings():
    chosen = smoke.parsed(
        Config, "--methods", "l0_l2", "reference", "--preset", "paper", "--kappa", "100",
        "--decay", "0.5", "--alpha", "2", "--formulation", "c_step", "--no-multipliers",
        "--activation", "relu", "--mu", "3", "--mu-growth", "4", "--l-step-scale", "2",
        "--learning-rate", "5", "--learning-rate-decay", "0.6", "--cooldown", "0.7",
        "--batch-size", "8", "--seeds", "3", "4", "--resume",
    )  # fmt: skip
    assert (chosen.rows(), chosen.seeds, chosen.resume) == (("reference", "l0_l2"), (3, 4), True)
    found = chosen.settings("l0_l2")
    expected = {
        "kappa": 100, "decay": 0.5, "formulation": "c_step", "multipliers": False,
        "activation": "relu", "mu": 3, "mu_growth": 4, "learning_rate": 5, "cooldown": 0.7,
        "learning_rate_decay": 0.6, "batch_size": 8, "epochs_per_l_step": 40,
        "first_l_step_epochs": 80, "l_steps": 40,
    }  # fmt: skip
    assert found.items() >= expected.items()
    assert chosen.settings("l1")["alpha"] == 2
    assert chosen.settings("reference")["learning_rate"] == 0.1  # it keeps its own
    with pytest.raises(SystemExit):
        smoke.parsed(Config, "--longer", "2")


def test_every_row_has_its_settings():
    assert set(DEFAULTS) == set(ROWS)
    for preset in PRESETS:
        for row in ROWS:
            settings = Config(preset=preset).settings(row)
            assert (settings["row"], settings["preset"]) == (row, preset)
            if settings["activation"] == "tanh":
                assert Config().reference_of(row) == "reference_tanh"
    json.dumps(settings)


def test_a_network_can_be_read_back(finished, small_mnist):
    folder = finished[0].folder / "l0_l2" / "seed_0"
    found = smoke.check_readable(folder, small_mnist)
    kernels = [leaf for leaf in jax.tree.leaves(found.network.params) if leaf.ndim > 1]
    assert sum(int(np.count_nonzero(leaf)) for leaf in kernels) == found.result["nonzeros"]
    assert (found.name, found.result["network"]["activation"]) == ("lenet300_l0_l2", "tanh")
