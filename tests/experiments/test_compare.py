"""The comparison of all methods on a part of MNIST, and what its tables conclude."""

import dataclasses
import json
import shutil
import subprocess
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.common import saved_runs
from experiments.common.merge import merge
from experiments.common.report import FigureFile, read_report, write_report
from experiments.compare import (
    choices,
    compared_run,
    costs,
    methods,
    recipe,
    report,
    rows,
    timed_run,
)
from experiments.compare import config as config_module
from experiments.compare.config import TASKS, TUNING_SEED, Config
from experiments.compare.methods import METHODS, PEERS
from experiments.compare.recipe import RECIPE
from experiments.data import Dataset, Split
from sparsejax.deploy import load_sparse
from tests.experiments import smoke

OURS = set(METHODS) - PEERS


def config(output, **flags):
    flags = {
        "preset": "smoke", "seeds": (0,), "timing_rounds": 0, "batch_size": 250, "resume": True,
    } | flags  # fmt: skip
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
        for module in (methods, config_module, compared_run, choices, report, rows):
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
        inputs, *hidden, outputs = result["live_units"]
        # So few steps of 1 % of the weights may lead nowhere.
        assert (inputs <= 784, outputs) == (True, 10)
        assert all(units <= most for units, most in zip(hidden, (300, 100), strict=True))
        assert sum(result["layer_nonzeros"].values()) == result["nonzeros"]
        assert [*result["layer_nonzeros"]] == ["dense1", "dense2", "dense3"]
        assert all(0 < loss < 10 for loss in result["losses"].values())
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
    with pytest.raises(ValueError, match="--timing-rounds must be at least 0; got -1"):
        Config(timing_rounds=-1).check()
    with pytest.raises(ValueError, match="--time-only and --tune-only exclude one another"):
        Config(time_only=True, tune_only=True).check()
    with pytest.raises(ValueError, match="--time-only needs --add, and in --results the report"):
        Config(time_only=True).check()
    with pytest.raises(ValueError, match="--time-only needs --timing-rounds of at least 1; got 0"):
        Config(add=True, time_only=True, timing_rounds=0).check()


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


def row(method, errors, budget="1"):
    """A row as a report has it."""
    mean, std = float(np.mean(errors)), float(np.std(errors, ddof=1))
    return {
        "network": "lenet300_mnist", "method": method, "kept_percent": budget,
        "seconds": [3600.0] * len(errors), "seeds": list(range(len(errors))), "preset": "full",
        "settings": {"epochs": 100},
        "test_error": {"mean": mean, "std": std, "values": list(errors)},
    }  # fmt: skip


def timed(method, milliseconds, **more):
    """A row of the runs that measure times."""
    return {
        "network": "lenet300_mnist", "method": method, "settings": {"image_share": 0.1},
        "seeds": list(range(len(milliseconds))), "milliseconds_a_step": list(milliseconds),
        "dense_milliseconds_a_step": [1.0, 2.0, 4.0][: len(milliseconds)], **more,
    }  # fmt: skip


DENSE = row("dense", [1.4, 1.5, 1.6], "100")
MADE = [
    DENSE,
    row("lc_l0_l2", [2.0, 2.1, 2.2]),
    row("cs", [2.1, 2.2, 2.3]),
    row("magnitude", [2.4, 2.5, 2.6]),
    row("rigl", [2.5, 3.1, 2.5]),
    row("static", [9.0, 9.1, 9.2]),
]
TIMES = [
    timed("dense", [1.0, 2.0, 4.0]),
    timed("lc_l0_l2", [1.2, 2.4, 4.8]),
    timed("cs", [1.3, 2.2, 4.2]),
    timed("magnitude", [1.05, 2.1, 4.2]),
    timed("rigl", [1.09, 2.18, 4.4]),
    timed("static", [0.9, 1.8, 3.6]),
]
COSTS = costs.costs_of(TIMES, "lenet300_mnist")


def test_the_choice_follows_the_stated_rule():
    (line,) = choices.choices(choices.compared(MADE, "lenet300_mnist"), COSTS)
    # The standard error of a difference of two means of deviation 0.1 is 0.08: 0.1 is outside.
    assert line["error"] == "learning-compression, l0+l2: 2.10 ± 0.10 %"
    assert line["cheap"] == "continuous sparsification: 2.20 ± 0.10 %"
    assert line["sparse"] == "RigL: 2.70 ± 0.35 %"
    noisy = [*MADE[:4], row("rigl", [1.9, 2.8, 2.0]), MADE[5]]
    (line,) = choices.choices(choices.compared(noisy, "lenet300_mnist"), COSTS)
    assert line["cheap"].endswith("; as good: RigL")


def test_costs_are_compared_within_a_round():
    """A machine that slows down from round to round changes no ratio."""
    assert COSTS["lc_l0_l2"] == pytest.approx((1.2, 1.2, 1.2, 0.0), abs=1e-12)
    spread = np.std([1.3, 1.1, 1.05], ddof=1) * np.sqrt(np.pi / 2 / 3)
    assert COSTS["cs"] == pytest.approx((1.1, 1.05, 1.3, spread))
    assert str(COSTS["cs"]) == "1.10 (1.05 to 1.30)"
    assert [name for name, cost in COSTS.items() if cost.affordable] == [
        "dense", "cs", "magnitude", "rigl", "static",
    ]  # fmt: skip
    assert [name for name, cost in COSTS.items() if cost.in_doubt] == ["cs"]
    (single,) = costs.costs_of([timed("imp", [3.0])], "lenet300_mnist").values()
    assert single.in_doubt
    assert costs.costs_of(TIMES, "lenet5_fashion_mnist") == {}


def test_the_time_of_a_step_leaves_out_what_is_compiled():
    rows = lambda *pairs: [{"step": step, "seconds": s} for step, s in pairs]  # noqa: E731
    phases = {
        "dense": rows((10, 5.0), (20, 5.1)),  # 10 ms a step
        "search": rows((10, 7.0), (20, 7.3), (60, 8.5)),  # 30 ms a step
        "first": rows((10, 100.0)),
    }
    assert timed_run.milliseconds_a_step(phases) == pytest.approx((10 * 20 + 30 * 60) / 80)
    assert timed_run.milliseconds_a_step({"a": rows((10, 1.0))}) == pytest.approx(100)


def test_timed_runs_take_turns_and_compute_no_error(finished, dataset, adding):
    """Those of the methods asked for, with settings chosen before."""
    more = adding(method=("gated_decay", "rigl"), time_only=True, timing_rounds=2)
    printed, found = run(more, dataset, drawn=False)
    taken = [line.split()[1] for line in printed.splitlines() if "ms a step" in line]
    assert taken == 2 * ["gated_decay", "rigl"]
    assert len(found) == len(finished[2]) + 2
    timed = {row["method"]: row for row in found if "milliseconds_a_step" in row}
    assert {tuple(row["seeds"]) for row in timed.values()} == {(0, 1)}
    for name, result in results_of(more, "timing").items():
        assert result.keys().isdisjoint({"test_error", "validation_error"})
        assert result["milliseconds_a_step"] in timed[name]["milliseconds_a_step"]
    assert not [*more.folder.glob("**/*.safetensors")]
    assert set(costs.costs_of(found, "lenet300_mnist")) == set(timed)


def test_what_has_no_settings_is_not_timed(finished, dataset, adding):
    """Nor are settings chosen for it: the report has those of dense training alone."""
    more = adding(method=("dense", "rigl"), time_only=True, timing_rounds=1)
    with smoke.loading(recipe, dataset):
        assert [run.row for run in recipe.plan(more)] == ["lenet300_mnist_dense_timing"]


def test_a_share_of_the_images_renews_masks_as_often(dataset, tmp_path):
    chosen = Config().timed_settings("lenet300_mnist", "rigl", {"rate": 0.1})
    assert (chosen["image_share"], chosen["epochs"], chosen["kept_percent"]) == (0.1, 100, "1")
    few = timed_run.part(dataset, 0.25, 100)
    assert [len(split.labels) for split in few[1:]] == [250, 500, 500]
    assert len(timed_run.part(dataset, 0.01, 100).train.labels) == 100
    settings = chosen | {"image_share": 0.25, "batch_size": 50}
    one = recipe._run("row", tmp_path, settings, 0, False, few, timed_run.TimedRun)
    all_images = settings | {"image_share": 1.0}
    full = recipe._run("row", tmp_path, all_images, 0, False, dataset)
    for count in (400, 40):
        assert one.epochs * one.steps_per_epoch // one.scaled(count) == (
            full.epochs * full.steps_per_epoch // full.scaled(count)
        )


def masks_due(sparse_method, steps):
    """Renewals in the steps of a search, as a share of them."""
    return float(jax.vmap(sparse_method.is_due)(np.arange(steps)).mean())


@pytest.mark.parametrize("name", ["magnitude", "saliency", "rigl", "set", "lc_l0", "gated_decay"])
@pytest.mark.parametrize("network", TASKS)
def test_a_timed_run_works_as_often_between_steps(name, network, monkeypatch):
    """Renewals, C steps and assessments have the density that they have with all images."""
    found = []

    def sparsify(optimizer, method):
        found.append(lambda steps: masks_due(method, steps))
        raise StopIteration

    def learning_compression(constraint, mu, steps_per_l_step):
        found.append(lambda steps: 1 / steps_per_l_step)
        raise StopIteration

    def pruning_step(step, pruner, accuracy, every):
        found.append(lambda steps: 1 / every)
        raise StopIteration

    monkeypatch.setattr("sparsejax.transforms.sparsify", sparsify)
    monkeypatch.setattr("sparsejax.learning_compression", learning_compression)
    monkeypatch.setattr("experiments.compare.methods.gated_decay.pruning_step", pruning_step)
    monkeypatch.setattr(compared_run.Trainer, "run", lambda self, phase, step, state, *_: state)
    chosen = Config().timed_settings(network, name, METHODS[name].candidates[0])
    images = np.zeros((55_000, 28, 28, 1), np.uint8), np.zeros(55_000, np.int32)
    few = tuple(array[:10] for array in images)
    whole = Dataset("none", Split(*images), Split(*few), Split(*few))
    densities = []
    for share, data in ((1.0, whole), (0.1, timed_run.part(whole, 0.1, 128))):
        run = recipe._run("row", Path(), chosen | {"image_share": share}, 0, False, data)
        epochs = run.share(METHODS[name].search_share)
        with pytest.raises(StopIteration):
            METHODS[name].search(run, epochs)
        densities.append(found[-1](epochs * run.steps_per_epoch))
    assert densities[1] == pytest.approx(densities[0], rel=0.2)


def test_times_are_measured_where_they_can_be_compared(tmp_path):
    assert Config().rounds() == 3
    assert Config(preset="smoke").rounds() == 0
    assert Config(add=True).rounds() == 0
    assert Config(add=True, timing_rounds=2).rounds() == 2
    assert Config(add=True, time_only=True).rounds() == 3
    assert Config(tune_only=True).rounds() == 0
    network = "lenet300_mnist"
    few = Config(method=("rigl", "set"), time_only=True, output=tmp_path)
    planned = recipe._planned(few, {(network, "rigl"): {}, (network, "set"): {}})
    assert [(run.row, run.seed) for run, _ in planned] == [
        (f"{network}_{name}_timing", number) for number in range(3) for name in ("rigl", "set")
    ]


def test_dense_training_is_timed_before_and_after(dataset, tmp_path):
    settings = config(tmp_path).timed_settings(
        "lenet300_mnist", "one_shot", {"rate": 0.1, "search_share": 0.3}
    )

    def make():
        folder = tmp_path / "run"
        return recipe._run("row", folder, settings, 0, True, dataset, timed_run.TimedRun)

    run = make()
    assert "ms a step (dense: " in run.ensure()
    assert [*run.times] == ["dense_before", "search", "fine_tune", "dense_after"]
    assert [len(rows) for rows in run.times.values()] == [2, 1, 2, 2]
    dense = [run.times[phase] for phase in ("dense_before", "dense_after")]
    expected = np.mean([rows[1]["seconds"] - rows[0]["seconds"] for rows in dense])
    assert run.result()["dense_milliseconds_a_step"] == pytest.approx(1000 * expected / 4)
    assert not (tmp_path / "run" / "network.safetensors").exists()
    assert "(already there)" in make().ensure()


def test_a_timed_run_that_diverges_has_no_time(dataset, tmp_path):
    chosen = config(tmp_path).timed_settings("lenet300_mnist", "static", {"rate": 1e30})
    good = chosen | {"rate": 0.1}

    def make(name, settings, number):
        folder = tmp_path / name
        return recipe._run("row", folder, settings, number, True, dataset, timed_run.TimedRun)

    runs = [make("bad", chosen, 0), make("good", good, 1)]
    assert "diverged (the loss is" in runs[0].ensure()
    runs[1].ensure()
    found = rows._timing_row(config(tmp_path), "lenet300_mnist", "static", runs)
    assert (found["seeds"], found["diverged_seeds"]) == ([1], [0])
    assert found["milliseconds_a_step"] == [runs[1].result()["milliseconds_a_step"]]
    assert set(costs.costs_of([found], "lenet300_mnist")) == {"static"}


def test_adding_times_of_one_method_leaves_those_of_others():
    two = [timed(name, [1.1, 2.0, 5.0], name=name, made_by=["first"]) for name in ("dense", "cs")]
    again = [
        timed(name, [3.0, 2.4], name=name) | {"dense_milliseconds_a_step": [2.0, 2.0]}
        for name in ("dense", "rigl")
    ]
    merged = merge(two, again, rows.PER_SEED, "second")
    found = costs.costs_of(merged, "lenet300_mnist")
    assert found["cs"][:3] == pytest.approx((1.1, 1.0, 1.25))
    assert found["rigl"][:3] == pytest.approx((1.35, 1.2, 1.5))


def test_the_commit_is_that_of_the_checkout_alone(tmp_path):
    def git(*words):
        names = ("-c", "user.name=n", "-c", "user.email=e")
        subprocess.run(["git", "-C", tmp_path, *names, *words], check=True)

    git("init", "--quiet")
    git("commit", "--quiet", "--allow-empty", "--message", "a message")
    (tmp_path / "within").mkdir()
    assert len(methods.jaxpruner.commit(tmp_path)) == 40
    assert methods.jaxpruner.commit(tmp_path / "within") is None
    assert methods.jaxpruner.commit(tmp_path / "nowhere") is None


def test_the_report_says_how_costs_were_measured_and_what_is_in_doubt():
    layers = [{"dense1": 5, "dense2": 4, "dense3": n} for n in (3, 2)]
    counted = row("magnitude", [2.4, 2.5], "5") | {
        "live_units": [[9, 8, 7, 10], [9, 6, 5, 10]], "layer_nonzeros": layers,
    }  # fmt: skip
    made = report.parts([*named([*MADE, counted]), *TIMES])
    text = "\n".join(part if isinstance(part, str) else part.markdown()
                     for part in made if not isinstance(part, report.MadeBy))  # fmt: skip
    assert "in 3 rounds (fewer of a method that diverged in one) in which the methods" in text
    assert "with 10 % of the images and 1 % of the weights" in text
    assert "took 20.0 hours" in text
    assert "Not timed" not in text
    assert "Empty cells have not been run." in text
    assert "Cost of a step" in text
    assert "move them across, are the medians of continuous sparsification." in text
    assert "| gradual magnitude pruning | 5 % | 2.40, 2.50 | 8, 6 | 7, 5 |" in text
    assert "| gradual magnitude pruning | 5 % | 5, 5 | 4, 4 | 3, 2 |" in text
    assert "dense1, of 300 | dense2, of 100 |" in text
    untimed = report.parts(named(MADE))
    assert not any("take turns" in part for part in untimed if isinstance(part, str))
    assert [part.name for part in untimed if isinstance(part, FigureFile)] == [
        "lenet300_mnist_errors.png"
    ]
    some = report.parts([*named(MADE), *TIMES[:4], *TIMES[5:]])
    assert any("Not timed: RigL." in part for part in some if isinstance(part, str))
    (line,) = choices.choices(choices.compared(MADE, "lenet300_mnist"), {})
    assert line["cheap"] == "(not measured)"


def test_rigl_is_set_against_that_of_jaxpruner_without_dense_runs():
    ours, theirs = row("rigl", [2.5, 2.7]), row("rigl_jaxpruner", [2.4, 2.5, 2.6])
    made = report.parts(named([ours, theirs]))
    assert made[0] == "# Some methods of the comparison"
    (table,) = (part for part in made if isinstance(part, report.Table))
    spread = np.hypot(np.sqrt(0.02 / 2), 0.1 / np.sqrt(3))
    assert table.cells()[1] == [
        "1 %", "2 and 3", "2.60 ± 0.14 %", "2.50 ± 0.10 %", f"+0.10 ± {spread:.2f}",
    ]  # fmt: skip
    assert not report._peers(named([ours]), "lenet300_mnist")


def test_seeds_that_diverged_are_counted_and_in_no_mean():
    cs = row("cs", [2.0, 2.2]) | {"seeds": [0, 2], "diverged_seeds": [1]}
    by_budget = choices.compared([DENSE, row("lc_l0_l2", [2.3, 2.3, 2.3]), cs], "lenet300_mnist")
    (line,) = choices.choices(by_budget, COSTS)
    assert line["error"] == (
        "continuous sparsification: 2.10 ± 0.14 % (1 diverged); "
        "never diverged: learning-compression, l0+l2, 2.30 ± 0.00 %"
    )
    assert choices.fewer_seeds(by_budget).startswith("(n diverged): so many further seeds ended")


def test_a_method_that_always_diverges_is_named():
    cs = row("cs", [2.0, 2.2]) | {"seeds": [], "diverged_seeds": [0, 1]}
    rows = [DENSE, cs, MADE[1]]
    assert report.always_diverged(rows, "lenet300_mnist") == (
        "Every run diverged of: continuous sparsification at 1 %."
    )
    assert set(choices.compared(rows, "lenet300_mnist")["1"]) == {"lc_l0_l2"}
    assert any("Every run diverged of" in part for part in report.parts(named(rows)))
    assert report.always_diverged(MADE, "lenet300_mnist") == ""


def named(rows):
    return [one | {"name": one["method"], "model": "lenet300", "dataset": "mnist"} for one in rows]


def test_the_four_systems_are_set_against_the_baselines_with_a_standard_error():
    table = report._target_table(choices.compared(MADE, "lenet300_mnist"))
    (line,) = table.cells()[1:]
    assert line[1] == "learning-compression, l0+l2"
    assert line[2] == f"-0.40 ± {np.hypot(0.1, 0.1) / np.sqrt(3):.2f} (yes)"
    assert line[3].startswith("-0.60 ± 0.21")
    assert report._target_table(choices.compared(MADE[:3], "lenet300_mnist")) is None


def test_methods_that_lack_seeds_say_so_and_are_not_judged():
    by_budget = choices.compared([*MADE[:4], row("rigl", [2.5, 2.6]), MADE[5]], "lenet300_mnist")
    cells = {line[0]: line[1] for line in choices.errors_table(by_budget, COSTS).cells()}
    assert cells["RigL [rigl]"] == "2.55 ± 0.07 % (2)"
    assert "(" not in cells["static random mask [static]"]
    assert choices.fewer_seeds(by_budget).startswith("(1), (2): only so many")
    assert choices.fewer_seeds(choices.compared(MADE, "lenet300_mnist")) == ""
    with np.errstate(invalid="ignore"), pytest.warns(RuntimeWarning):
        single = row("rigl", [2.5])
    assert report._target_table(choices.compared([*MADE[:4], single], "lenet300_mnist")) is None


def test_the_figures_show_every_method():
    by_budget = choices.compared(MADE, "lenet300_mnist")
    figure = report.pictures.errors(by_budget)
    shown = {text.get_text() for text in figure.legends[0].get_texts()}
    assert shown == {METHODS[row["method"]].title for row in MADE}
    figure = report.pictures.costs(by_budget, COSTS)
    (axes,) = figure.axes
    points = {float(line.get_xdata()[0]) for line in axes.lines if len(line.get_xdata()) == 1}
    assert points >= {1.2, 1.1, 1.05, 0.9}
    # A method that has one of three budgets is in the legend, too.
    three = [*MADE, row("cs", [2.0, 2.1], "2"), row("imp", [1.9, 2.1], "5")]
    imp = {"imp": COSTS["cs"]}
    figure = report.pictures.costs(choices.compared(three, "lenet300_mnist"), {**COSTS, **imp})
    assert len(figure.axes) == 3
    assert METHODS["imp"].title in {text.get_text() for text in figure.legends[0].get_texts()}
