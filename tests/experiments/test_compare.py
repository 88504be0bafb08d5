"""The comparison of all methods on a part of MNIST, and what its tables conclude."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.common import saved_runs
from experiments.common.report import read_report, write_report
from experiments.compare import config as config_module
from experiments.compare import methods, recipe, report
from experiments.compare.config import TASKS, TUNING_SEED, Config
from experiments.compare.methods import METHODS, PEERS
from experiments.compare.recipe import RECIPE
from sparsejax.deploy import load_sparse
from tests.experiments import smoke

OURS = set(METHODS) - PEERS


def config(output, **flags):
    flags = {"preset": "smoke", "seeds": (0,), "batch_size": 250, "resume": True} | flags
    return Config(network=("lenet300_mnist",), output=output, **flags)


@pytest.fixture(scope="module")
def dataset(mnist):
    """Four steps an epoch: the programs run slowly, since they are compiled quickly."""
    return smoke.part(mnist, train=1000, others=500)


def run(chosen, dataset, drawn=True):
    """Every method with the last of its candidates, dense training with the better of two."""
    last = {
        name: method._replace(candidates=method.candidates[-2 if name == "dense" else -1 :])
        for name, method in METHODS.items()
    }
    with pytest.MonkeyPatch.context() as patch:
        for module in (methods, config_module, recipe, report):
            patch.setattr(module, "METHODS", last)
        return smoke.run(RECIPE, recipe, dataset, chosen, drawn)


@pytest.fixture(scope="module")
def finished(dataset, tmp_path_factory):
    chosen = config(tmp_path_factory.mktemp("compare") / "run")
    return chosen, *run(chosen, dataset)


def results_of(chosen, kind):
    files = chosen.folder.glob(f"lenet300_mnist/*/{kind}/*/result.json")
    return {file.parts[-4]: json.loads(file.read_text()) for file in files}


def test_every_method_has_the_same_epochs_and_keeps_to_its_budget(finished):
    chosen, _, rows = finished
    found = results_of(chosen, "kept_*")
    assert set(found) == OURS
    for name, result in found.items():
        kept = 266_200 if name == "dense" else 2_662
        assert result["kept"] == kept
        # What SET and RigL grow behind a dead unit stays at its zero.
        assert 0.5 * kept <= result["nonzeros"] <= kept, name
        assert result["epochs"] == 3, name
        assert result["test_error"] < 95
        folder = chosen.folder / "lenet300_mnist" / name
        network = load_sparse(next(folder.glob("kept_*/seed_0")) / "network.safetensors")
        kernels = [leaf for leaf in jax.tree.leaves(network) if leaf.ndim > 1]
        assert sum(map(np.count_nonzero, kernels)) == result["nonzeros"]
    assert [row["method"] for row in rows if "kept_percent" in row] == [
        name for name in METHODS if name in OURS
    ]


def test_methods_that_are_always_sparse_find_what_they_end_with(finished):
    chosen, _, _ = finished
    found = results_of(chosen, "kept_1")
    for name in (name for name in OURS if METHODS[name].always_sparse):
        assert found[name]["nonzeros_after_search"] <= 2_662
    assert found["one_shot"]["nonzeros_after_search"] > 200_000


def test_the_best_candidate_is_chosen_by_the_validation_images_alone(finished):
    chosen, _, rows = finished
    folder = chosen.folder / "lenet300_mnist"
    for file in folder.glob("*/tuning/*/*.json*"):
        assert "test_error" not in file.read_text()
    tried = [json.loads(f.read_text()) for f in sorted(folder.glob("dense/tuning/*/result.json"))]
    assert len(tried) == 2
    assert {result["seed"] for result in tried} == {TUNING_SEED}
    best = min(tried, key=lambda result: result["validation_error"])
    assert results_of(chosen, "kept_*")["dense"]["settings"]["rate"] == best["settings"]["rate"]
    (row,) = [row for row in rows if row["name"] == "lenet300_mnist_dense_tuning"]
    assert row["chosen"] == {"rate": best["settings"]["rate"]}


def test_a_run_that_has_ended_is_not_made_again(finished, dataset):
    chosen, _, rows = finished
    again = config(chosen.folder, method=("dense",))
    printed, found = run(again, dataset, drawn=False)
    assert printed.count("(already there)") == 3
    assert found == rows[:2]


@pytest.fixture
def adding(finished, tmp_path):
    """Makes configurations that add a seed to a report of what has ended."""
    results = tmp_path / "report"
    results.mkdir()
    write_report(results, "compare", "a command before", finished[2])
    more = {"seeds": (1,), "results": results, "add": True}
    return lambda **flags: config(tmp_path / "more", **more, **flags)


def test_seeds_are_added_with_the_settings_that_were_chosen(finished, dataset, adding):
    """No candidate is tried again, and other rows stay."""
    _, _, before = finished
    more = adding(method=("dense", "static"))
    (tuned,) = (row for row in before if row["name"] == "lenet300_mnist_dense_tuning")
    assert recipe.chosen_before(more) == {("lenet300_mnist", "dense"): tuned["chosen"]}
    run(more, dataset, drawn=False)
    assert not [*more.folder.glob("*/*/tuning")]
    rows = {row["name"]: row for row in read_report(more.report_folder)["rows"]}
    assert list(rows) == [row["name"] for row in before]
    for name in ("lenet300_mnist_dense_100", "lenet300_mnist_static_1"):
        assert rows[name]["seeds"] == [0, 1]
        assert len(rows[name]["test_error"]["values"]) == len(rows[name]["seconds"]) == 2
        assert len(rows[name]["made_by"]) == 2
    assert rows["lenet300_mnist_imp_1"]["seeds"] == [0]


def test_other_settings_are_refused_before_anything_is_trained(dataset, adding):
    more = adding(method=("rigl", "static"), batch_size=200)
    with pytest.raises(ValueError, match="_1 was made with other .*: batch_size 250 there, 200 h"):
        run(more, dataset, drawn=False)
    assert not more.folder.exists()
    with smoke.loading(recipe, dataset):
        accepted = [
            dataclasses.replace(more, **changed)
            for changed in ({"seeds": (0, 1)}, {"tune_only": True}, {"partial": True})
        ]
        assert [next(recipe.plan(chosen)).seed for chosen in accepted] == [TUNING_SEED] * 3


def test_tune_only_computes_no_test_error(finished, dataset, tmp_path):
    shutil.copytree(
        finished[0].folder / "lenet300_mnist/dense/tuning", tmp_path / "lenet300_mnist/dense/tuning"
    )
    chosen = config(tmp_path, method=("dense",), tune_only=True)
    printed, rows = run(chosen, dataset, drawn=False)
    assert printed.count("(already there)") == 2
    assert "test error" not in printed
    assert len(rows) == 1
    assert not list(tmp_path.glob("**/kept_*"))


def test_a_run_that_diverges_ends_as_such(dataset, tmp_path):
    settings = config(tmp_path).settings("lenet300_mnist", "static", "1", {"rate": 1e30})
    make = lambda: recipe._run("row", tmp_path / "run", settings, 0, True, dataset)  # noqa: E731
    assert "diverged (the loss is " in make().ensure()
    result = make().result()
    assert result.keys().isdisjoint({"test_error", "validation_error"})
    assert "(already there)" in make().ensure()
    other = settings | {"epochs": 4}
    assert not recipe._run("row", tmp_path / "run", other, 0, True, dataset).done()


def test_its_networks_can_be_deployed(finished, dataset):
    folder = finished[0].folder / "lenet300_mnist" / "rigl" / "kept_1" / "seed_0"
    smoke.check_readable(folder, dataset)
    with smoke.loading(saved_runs, dataset):
        assert saved_runs.read(folder, None, None, 0).name == "lenet300_mnist_rigl_1"


def test_every_method_has_four_candidates_and_settings_that_are_json():
    for name, method in METHODS.items():
        assert len(method.candidates) == 4, name
        for candidate in method.candidates:
            json.dumps(Config().settings("lenet300_mnist", name, "1", candidate))
    assert set(methods.names()) == set(METHODS)


def test_rates_and_penalties_are_those_of_the_network():
    of = {n: [Config().candidates(n, name)[-1] for name in ("rigl", "lc_l0")] for n in TASKS}
    assert of == {
        "lenet300_mnist": [{"rate": 0.2, "drop_fraction": 0.5}, {"rate": 0.3, "mu": 3e-4}],
        "lenet5_fashion_mnist": [
            {"rate": 0.2, "drop_fraction": 0.5}, {"rate": 0.033, "mu": 1e-3},
        ],
    }  # fmt: skip
    shared = [Config().settings(n, "lc_l0_l2", "1", {})["mu"] for n in TASKS]
    assert shared == [9e-5, 3e-4]
    assert {Config().settings(n, "cs", "1", {})["rate"] for n in TASKS} == {0.1}
    # What was chosen is not adapted again.
    assert Config().settings("lenet5_fashion_mnist", "rigl", "1", {"rate": 0.033})["rate"] == 0.033


@pytest.mark.parametrize("network", TASKS)
def test_budgets_are_tuned_at_one_of_them(network):
    assert TASKS[network].tuned_at in TASKS[network].budgets


def test_bad_flags_are_named():
    with pytest.raises(ValueError, match=f"--seeds must not hold {TUNING_SEED}"):
        Config(seeds=(0, TUNING_SEED)).check()
    with pytest.raises(ValueError, match="--seeds must name at least one seed"):
        Config(seeds=()).check()
    with pytest.raises(ValueError, match="--methods rigl_jaxpruner needs --jaxpruner"):
        Config(method=("rigl_jaxpruner",)).check()
    with pytest.raises(ValueError, match="--jaxpruner must be a checkout of JaxPruner; got /no"):
        Config(jaxpruner=Path("/nowhere")).check()
    with pytest.raises(ValueError, match="--kept-percent must be of .*; got 3"):
        Config(kept_percent=("3",)).check()
    with pytest.raises(ValueError, match="--batch-size must be positive; got 0"):
        Config(batch_size=0).check()


def test_flags_become_settings():
    chosen = smoke.parsed(
        Config, "--network", "lenet5_fashion_mnist", "--methods", "rigl", "dense", "--seeds", "4",
        "--batch-size", "8", "--tune-only", "--preset", "smoke", "--kept-percent", "1", "2.5",
    )  # fmt: skip
    assert chosen.methods() == ("dense", "rigl")
    assert chosen.networks() == ("lenet5_fashion_mnist",)
    settings = chosen.settings("lenet5_fashion_mnist", "rigl", "1", {"rate": 7})
    assert settings.items() >= {"epochs": 3, "batch_size": 8, "rate": 7}.items()
    assert chosen.tune_only
    assert chosen.budgets("lenet5_fashion_mnist") == ("1",)
    assert Config(kept_percent=("2",)).budgets("lenet300_mnist") == ("2",)


def row(method, errors, seconds=1.0, budget="1"):
    """A row as a report has it."""
    mean, std = float(np.mean(errors)), float(np.std(errors, ddof=1))
    return {
        "network": "lenet300_mnist", "method": method, "kept_percent": budget,
        "seconds": [seconds] * len(errors), "seeds": list(range(len(errors))), "preset": "full",
        "settings": {"epochs": 100},
        "test_error": {"mean": mean, "std": std, "values": list(errors)},
    }  # fmt: skip


DENSE = row("dense", [1.4, 1.5, 1.6], 10.0, "100")
MADE = [
    DENSE,
    row("lc_l0_l2", [2.0, 2.1, 2.2], 12.0),
    row("cs", [2.1, 2.2, 2.3], 11.0),
    row("magnitude", [2.4, 2.5, 2.6], 10.5),
    row("rigl", [2.5, 3.1, 2.5], 10.9),
    row("static", [9.0, 9.1, 9.2], 9.0),
]


def test_the_choice_follows_the_stated_rule():
    (line,) = report.choices(report.compared(MADE, "lenet300_mnist"))
    # The standard error of a difference of two means of deviation 0.1 is 0.08: 0.1 is outside.
    assert line["error"] == "learning-compression, l0 + l2: 2.10 ± 0.10 %"
    assert line["cheap"] == "continuous sparsification: 2.20 ± 0.10 %"
    assert line["sparse"] == "RigL: 2.70 ± 0.35 %"
    noisy = [*MADE[:4], row("rigl", [1.9, 2.8, 2.0], 10.9), MADE[5]]
    (line,) = report.choices(report.compared(noisy, "lenet300_mnist"))
    assert line["cheap"].endswith("; as good: RigL")


def test_seconds_of_other_machines_do_not_count():
    here, there = {"made_by": ["here"]}, {"made_by": ["here", "there"]}
    rows = [DENSE | here, row("cs", [2.0, 2.2], 12.0) | here]
    rows += [row(name, [2.0, 2.2], 4.0, "5") | there for name in ("cs", "imp")]
    by_budget = report.compared(rows, "lenet300_mnist")
    assert report.cost("cs", by_budget) == 1.2
    assert report.cost("imp", by_budget) == 0.4  # there is no other


def test_seeds_that_diverged_are_counted_and_in_no_mean():
    cs = row("cs", [2.0, 2.2]) | {"seeds": [0, 2], "diverged_seeds": [1]}
    by_budget = report.compared([DENSE, row("lc_l0_l2", [2.3, 2.3, 2.3]), cs], "lenet300_mnist")
    (line,) = report.choices(by_budget)
    assert line["error"] == "continuous sparsification: 2.10 ± 0.14 % (1 diverged)"
    assert report.fewer_seeds(by_budget).startswith("(n diverged): so many further seeds ended")


def test_a_method_that_always_diverges_is_named():
    cs = row("cs", [2.0, 2.2]) | {"seeds": [], "diverged_seeds": [0, 1]}
    rows = [DENSE, cs, MADE[1]]
    assert report.always_diverged(rows, "lenet300_mnist") == (
        "Every run diverged of: continuous sparsification at 1 %."
    )
    assert set(report.compared(rows, "lenet300_mnist")["1"]) == {"lc_l0_l2"}
    assert any("Every run diverged of" in part for part in report.parts(named(rows)))
    assert report.always_diverged(MADE, "lenet300_mnist") == ""


def named(rows):
    return [one | {"name": one["method"], "model": "lenet300", "dataset": "mnist"} for one in rows]


def test_the_four_systems_are_set_against_the_baselines_with_a_standard_error():
    table = report._target_table(report.compared(MADE, "lenet300_mnist"))
    (line,) = table.cells()[1:]
    assert line[1] == "learning-compression, l0 + l2"
    assert line[2] == f"-0.40 ± {np.hypot(0.1, 0.1) / np.sqrt(3):.2f} (yes)"
    assert line[3].startswith("-0.60 ± 0.21")
    assert report._target_table(report.compared(MADE[:3], "lenet300_mnist")) is None


def test_methods_that_lack_seeds_say_so_and_are_not_judged():
    by_budget = report.compared([*MADE[:4], row("rigl", [2.5, 2.6]), MADE[5]], "lenet300_mnist")
    cells = {line[0]: line[1] for line in report.errors_table(by_budget).cells()}
    assert cells["RigL [rigl]"] == "2.55 ± 0.07 % (2)"
    assert "(" not in cells["static random mask [static]"]
    assert report.fewer_seeds(by_budget).startswith("(1), (2): only so many")
    assert report.fewer_seeds(report.compared(MADE, "lenet300_mnist")) == ""
    with np.errstate(invalid="ignore"), pytest.warns(RuntimeWarning):
        single = row("rigl", [2.5])
    assert report._target_table(report.compared([*MADE[:4], single], "lenet300_mnist")) is None


def test_the_figures_show_every_method():
    by_budget = report.compared(MADE, "lenet300_mnist")
    figure = report.pictures.errors(by_budget)
    shown = {text.get_text() for text in figure.legends[0].get_texts()}
    assert shown == {METHODS[row["method"]].title for row in MADE}
    figure = report.pictures.costs(by_budget, report.cost)
    (axes,) = figure.axes
    points = {float(line.get_xdata()[0]) for line in axes.lines if len(line.get_xdata()) == 1}
    assert points >= {1.2, 1.1, 1.05, 0.9}
