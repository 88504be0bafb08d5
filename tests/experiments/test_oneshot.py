"""A small decoder and the dense LeNet300 of a part of MNIST, pruned by rows of the table."""

import dataclasses
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gguf import GGUFReader

from experiments.common import saved_runs
from experiments.common.report import summary, write_report
from experiments.data.gguf_decoder import make_decoder, read_decoder
from experiments.data.gguf_tokenizer import read_tokenizer
from experiments.lc_lenet300 import recipe as lenet300
from experiments.oneshot import files, images, language, recipe
from experiments.oneshot.config import (
    CANDIDATES,
    ROWS,
    TRAINED,
    Config,
    dense_rows,
    sources,
    teacher,
    trained_times,
)
from experiments.oneshot.recipe import RECIPE
from experiments.oneshot.report import parts, with_ratios
from sparsejax import inspection
from sparsejax.compression import ScaledArray
from sparsejax.deploy import load_sparse
from sparsejax.training import Callback
from tests.experiments import smoke
from tests.experiments.data import tiny_gguf
from tests.reference import live_bytes

pytestmark = pytest.mark.usefixtures("quick_collection", "few_candidates")

CONTEXT = 16
SHOWN = (
    "magnitude_50",
    "wanda_50",
    "sparsegpt_50",
    "admm_50",
    "global_50",
    "wanda_2_4",
    "sparsegpt_structured",
    "structured_tuned",
    "lc_50",
    "lc_50_file",
)


@pytest.fixture(scope="module")
def few_candidates():
    """The first and the last settings of each row, whose trial is much of what the rows take."""
    with pytest.MonkeyPatch.context() as patch:
        for row, every in CANDIDATES.items():
            patch.setitem(CANDIDATES, row, [every[0], *every[1:][-1:]])
        yield


@pytest.fixture(scope="module")
def small_decoder(tmp_path_factory):
    """The decoder and texts in place of SmolLM2 and the Brown corpus."""
    path = tmp_path_factory.mktemp("gguf") / "small.gguf"
    # All matrices have one shape, so that each method compiles once.
    sizes = dataclasses.replace(tiny_gguf.CONFIG, kv_heads=tiny_gguf.CONFIG.heads, hidden=64)
    tiny_gguf.write(path, tiny_gguf.random_params(sizes), sizes)
    reader = GGUFReader(path)
    config, arrays = read_decoder(reader)
    rng = np.random.default_rng(0)
    tokens = {
        name: rng.integers(2, config.vocabulary, 20 * CONTEXT, dtype=np.int32)
        for name in ("calibration", "validation", "test")
    }

    def load(chosen):
        model = make_decoder(config, arrays, False, jnp.float32)
        return language.of(model, read_tokenizer(reader), tokens, chosen)

    return load


def run(small_decoder, small_mnist, chosen, drawn=True):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "load", small_decoder)
        patch.setitem(files.SETTINGS, "group_size", 64)  # their width
        return smoke.run(RECIPE, saved_runs, small_mnist, chosen, drawn)


@pytest.fixture(scope="module")
def dense_lenet300(mnist, tmp_path_factory):
    images = smoke.part(mnist, train=5000, others=1000)
    chosen = lenet300.Config(
        preset="smoke", seeds=(0,), method=("reference",), output=tmp_path_factory.mktemp("dense")
    )
    smoke.run(lenet300.RECIPE, lenet300, images, chosen, drawn=False)
    return chosen.folder / "reference" / "seed_0"


@pytest.fixture(scope="module")
def held():
    """For rows that train, the most bytes held after a step, as a multiple of their state's."""
    found = {}
    train, fit = recipe.TrainedRun.train, recipe.TrainedRun.fit

    def measured_train(run):
        run.before = live_bytes()
        return train(run)

    def measured_fit(run, *given, **options):
        def measure(step, state, metrics):
            size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
            found[run.row] = max(found.get(run.row, 0), (live_bytes() - run.before) / size)

        return fit(run, *given, callbacks=[Callback(measure, 2)], **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe.TrainedRun, "train", measured_train)
        patch.setattr(recipe.TrainedRun, "fit", measured_fit)
        yield found


@pytest.fixture(scope="module")
def finished(held, small_decoder, dense_lenet300, small_mnist, tmp_path_factory):
    chosen = Config(
        preset="smoke", row=SHOWN, seeds=(0,), context=CONTEXT, mixed_precision=True,
        images=(dense_lenet300,), output=tmp_path_factory.mktemp("oneshot"),
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "SPARSITIES", (0.5, 0.95))
        patch.setattr(images, "METHODS", {m: images.METHODS[m] for m in ("magnitude", "admm")})
        return chosen, *run(small_decoder, small_mnist, chosen)


def test_rows_keep_their_budgets(finished):
    _, _, rows = finished
    by_name = {row["name"]: row for row in rows}
    expected_rows = {*SHOWN, "dense", "dense_tuned", "dense_tuned_twice"}
    assert expected_rows <= set(by_name)
    for name in expected_rows:
        settings = by_name[name]["settings"]
        expected = 1 - settings.get("sparsity", 0)
        if "structured" in name:  # a quarter of the hidden units and one of four heads
            expected = 0.75
        if name.endswith("_file"):  # where small weights take the value zero
            expected *= 0.97
        # The counts are exact for each row or matrix, whose sizes are even here.
        allowed = 0.03 * expected if name.endswith("_file") else 0.002
        assert by_name[name]["density"][0] == pytest.approx(expected, abs=allowed)
        assert by_name[name]["validation_perplexity_ratio"]["mean"] > 0


def test_rows_that_train_hold_their_state_once_and_not_what_it_started_from(finished, held):
    assert set(held) >= {"dense_tuned", "structured_tuned", "lc_50"}
    assert all(1 <= share < 1.05 for share in held.values()), held


def test_a_file_is_small_and_as_good(finished):
    chosen, _, rows = finished
    by_name = {row["name"]: row for row in rows}
    found, start = by_name["lc_50_file"], by_name["lc_50"]
    path = chosen.folder / "lc_50_file/seed_0/network.safetensors"
    assert found["file_bytes"] == [path.stat().st_size]
    assert 0.95 * start["nonzeros"][0] < found["nonzeros"][0] <= start["nonzeros"][0]
    of_start = chosen.folder / "lc_50/seed_0/network.safetensors"
    assert path.stat().st_size < 0.4 * of_start.stat().st_size
    is_form = lambda node: isinstance(node, ScaledArray)  # noqa: E731
    leaves = filter(is_form, jax.tree.leaves(load_sparse(path), is_leaf=is_form))
    assert {one.values.codebook.size for one in leaves} == {63}
    ratio = found["validation_perplexity"]["mean"] / start["validation_perplexity"]["mean"]
    assert 0.95 < ratio < 1.05


def test_better_methods_have_smaller_errors(finished):
    _, _, rows = finished
    errors = {row["name"]: row["layer_error"][0] for row in rows if "layer_error" in row}
    assert errors["admm_50"] < errors["sparsegpt_50"] < errors["magnitude_50"]
    assert errors["wanda_50"] < errors["wanda_2_4"]


def test_no_test_number_before_the_settings_are_final(finished, small_decoder, small_mnist):
    chosen, printed, rows = finished
    for file in chosen.folder.glob("**/result.json"):
        result = json.loads(file.read_text())
        assert "perplexity" not in result
        assert "test_error" not in result
    assert all("perplexity" not in row and "test_error" not in row for row in rows)
    assert "(not looked at)" in printed
    final = Config(
        preset="smoke", row=("wanda_50",), seeds=(0,), context=CONTEXT, resume=True, final=True,
        output=chosen.folder, results=chosen.folder / "final",
    )  # fmt: skip
    _, found = run(small_decoder, small_mnist, final, drawn=False)
    assert all(row["perplexity_ratio"]["mean"] > 0 for row in found if "tried" not in row)


def test_settings_are_chosen_by_a_draw_of_their_own(finished):
    _, _, rows = finished
    for name in (name for name in SHOWN if len(CANDIDATES.get(name, ())) > 1):
        (row,) = (row for row in rows if row["name"] == f"{name}_tuning")
        assert len(row["tried"]) == len(CANDIDATES[name])
        best = min(row["tried"], key=lambda one: one["validation_perplexity"])["settings"]
        (chosen,) = (row for row in rows if row["name"] == name)
        assert best.items() <= chosen["settings"].items()


def test_draws_are_added_with_the_settings_that_were_chosen(
    finished, small_decoder, small_mnist, tmp_path
):
    """Nothing is tried again, and the dense networks are those of the report."""
    _, _, before = finished
    results = tmp_path / "report"
    results.mkdir()
    write_report(results, "oneshot", "a command before", before)
    before = {row["name"]: row for row in before}
    more = Config(
        preset="smoke", row=("wanda_50", "lc_50"), seeds=(1,), context=CONTEXT, add=True,
        output=tmp_path / "more", results=results,
    )  # fmt: skip
    assert more.rows() == ("wanda_50", "dense_tuned", "lc_50")  # the source has to be there
    assert "dense" in dataclasses.replace(more, final=True).rows()  # its test number is missing
    more = dataclasses.replace(more, row=("wanda_50",))
    _, rows = run(small_decoder, small_mnist, more, drawn=False)
    assert {path.name for path in more.folder.iterdir()} == {"wanda_50"}
    assert [path.name for path in (more.folder / "wanda_50").iterdir()] == ["seed_1"]
    rows = {row["name"]: row for row in rows}
    assert list(rows) == list(before)
    assert rows["wanda_50"]["seeds"] == [0, 1]
    assert rows["wanda_50"]["settings"] == before["wanda_50"]["settings"]
    dense = before["dense"]["validation_perplexity"]["mean"]
    found = [value / dense for value in rows["wanda_50"]["validation_perplexity"]["values"]]
    assert rows["wanda_50"]["validation_perplexity_ratio"]["values"] == found
    assert rows["lc_50"] == before["lc_50"] | {"made_by": rows["lc_50"]["made_by"]}


def test_other_settings_are_refused_before_anything_is_made(
    finished, small_decoder, dense_lenet300, small_mnist, tmp_path, monkeypatch
):
    """Rows that train, and files, have the first seed alone; others have all."""
    _, _, before = finished
    added = ("lc_50", "wanda_50", "lenet300_mnist_dense")
    two = [row | {"seeds": [0, 1]} if row["name"] in added else row for row in before]
    results = tmp_path / "report"
    results.mkdir()
    write_report(results, "oneshot", "a command before", two)
    monkeypatch.setattr(recipe, "load", small_decoder)
    chosen = Config(
        preset="smoke", seeds=(0, 1), context=CONTEXT, mixed_precision=True, add=True,
        output=tmp_path / "more", results=results, windows=3,
    )  # fmt: skip

    def rows(*names, **flags):
        """The rows that are planned before any result is there."""
        config = dataclasses.replace(chosen, row=names, **flags)
        return {run.row for run in recipe.plan(config)}

    for refused in (("lc_50",), ("sparsegpt_50", "lc_50"), ("swaps_50", "lc_50_file")):
        with pytest.raises(
            ValueError, match="lc_50 was made with other .* windows 4 there, 3 here"
        ):
            rows(*refused)
    assert rows("wanda_50", "structured_tuned") == {"wanda_50", "structured_tuned"}
    with pytest.raises(ValueError, match="wanda_50 was made with other settings"):
        rows("wanda_50", seeds=(0,))
    assert rows("lc_50", partial=True) == {"dense_tuned", "lc_50"}
    assert rows("wanda_50", seeds=()) == set()
    with (
        smoke.loading(saved_runs, small_mnist),
        pytest.raises(ValueError, match="lenet300_mnist_dense was made with other settings"),
    ):
        rows("global_50", images=(dense_lenet300,), preset="full")
    assert not chosen.folder.exists()


def test_image_networks_lose_more_the_sparser_they_are(finished):
    _, _, rows = finished
    errors = {
        (row["method"], row["sparsity"]): row["validation_error"]["mean"]
        for row in rows
        if row["model"] == "lenet300"
    }
    dense = errors["dense", 0.0]
    for method in ("magnitude", "admm"):
        assert errors[method, 0.5] < dense + 2
        assert errors[method, 0.95] > errors[method, 0.5]
    assert errors["admm", 0.95] < errors["magnitude", 0.95]


def test_methods_that_train_stand_beside_those_that_do_not(
    finished, small_decoder, small_mnist, tmp_path
):
    chosen, _, _ = finished
    measured = {"mean": 1.5, "std": 0.1, "values": [1.4, 1.6]}
    others = [
        {
            "name": f"{model}_mnist_{method}_{kept}", "model": model, "dataset": "mnist",
            "method": method, "preset": "full", "seeds": [0, 1], "nonzeros": [9, 9],
            "settings": {"kept_percent": kept}, "test_error": measured,
            "validation_error": {**measured, "mean": 1.7}, "seconds": [1.0, 1.0],
        }
        for model in ("lenet300", "lenet5")
        for method, kept in (("dense", "100"), ("cs", "5"), ("cs", "0.5"))
    ]  # fmt: skip
    others[1]["diverged_seeds"] = [2]
    # Rows that chose settings or measured times have no errors.
    others.append({name: others[0][name] for name in ("model", "dataset", "method", "settings")})
    others[-1] |= {"name": "lenet300_mnist_dense_timing", "seeds": [0], "milliseconds_a_step": [2]}
    write_report(tmp_path / "compare", "compare", "python -m experiments.compare", others)
    again = dataclasses.replace(
        chosen, trained=tmp_path / "compare", partial=True, row=(), results=tmp_path / "report"
    )
    _, found = run(small_decoder, small_mnist, again)
    beside = [row for row in found if row.get("trained")]
    assert [(row["method"], row["sparsity"]) for row in beside] == [
        ("dense", 0.0), ("cs", pytest.approx(0.95)), ("cs", pytest.approx(0.995)),
    ]  # fmt: skip
    assert all("test_error" not in row for row in beside)  # the report is not final
    text = (tmp_path / "report" / "report.md").read_text()
    assert "with dense networks of their own of 1.70 ± 0.10 % (validation)" in text
    cell = "1.70 ± 0.10 % (validation)"
    assert f"| cs | {cell} (1 diverged) | {cell} |" in text
    assert text.count("Made by") == 2  # this report and the other one
    with pytest.raises(ValueError, match="--trained must be a folder with a report of compare"):
        run(small_decoder, small_mnist, dataclasses.replace(again, trained=tmp_path), drawn=False)


def test_the_report_can_be_written_again(finished):
    chosen, _, _ = finished
    text = (chosen.report_folder / "report.md").read_text()
    assert "SparseGPT, 50 % [sparsegpt_50]" in text
    assert (chosen.report_folder / "perplexity.png").stat().st_size > 10_000
    assert (chosen.report_folder / "lenet300_mnist.png").stat().st_size > 10_000


def test_the_report_says_what_is_in_the_files(finished):
    _, _, rows = finished
    (row,) = (row for row in rows if row["name"] == "lc_50_file")
    smaller = {**row["settings"]["file"], "values": 15}
    other = {**row, "name": "admm_50_file", "settings": {**row["settings"], "file": smaller}}

    def sentences(rows):
        return re.findall(
            r"In (?:a file|\S+) the weights .*? embedding has \S+ codes", str(parts(rows))
        )

    says = "the weights that are kept have {}-bit codes relative to the scale of their group of 64 "
    says += "inputs, the embedding has 6-bit codes"
    assert sentences(rows) == [f"In a file {says.format(6)}"]
    assert sentences([*rows, other]) == [
        f"In admm_50_file {says.format(4)}", f"In lc_50_file {says.format(6)}",
    ]  # fmt: skip
    assert not sentences([other for other in rows if other is not row])


def test_a_source_is_what_is_pruned_and_learnt_from(finished, small_decoder, monkeypatch):
    chosen, _, _ = finished
    monkeypatch.setattr(recipe, "load", small_decoder)
    again = dataclasses.replace(chosen, row=("lc_50",), images=(), partial=True)
    (run,) = (run for run in recipe.plan(again) if run.row == "lc_50")
    source = run.source.trained()
    pruned, _, _ = run.start.pruned(source)
    learnt = source["embedding"]["embedding"][...]
    np.testing.assert_array_equal(pruned["embedding"]["embedding"][...], learnt)
    assert (learnt != run.language.params["embedding"]["embedding"][...]).any()
    assert inspection.report(pruned, language.in_layers).density == 0.5
    metrics = {
        row: (chosen.folder / row / "seed_0" / "metrics.jsonl").read_text()
        for row in ("lc_50", "structured_tuned")
    }
    assert "cross_entropy" in metrics["lc_50"]
    assert "cross_entropy" not in metrics["structured_tuned"]


def test_training_that_goes_on_does_not_prune_again(finished, small_decoder, monkeypatch, tmp_path):
    chosen, _, _ = finished
    monkeypatch.setattr(recipe, "load", small_decoder)
    again = dataclasses.replace(
        chosen, row=("lc_50",), images=(), partial=True, resume=True, output=tmp_path
    )
    shutil.copytree(chosen.folder, again.folder, dirs_exist_ok=True)
    (run,) = (run for run in recipe.plan(again) if run.row == "lc_50")
    result, network = run.result(), run.trained()
    for name in ("result.json", "network.safetensors"):
        (run.folder / name).unlink()
    monkeypatch.setattr(recipe.PrunedRun, "pruned", None)
    run.ensure()
    jax.tree.map(np.testing.assert_array_equal, run.trained(), network)
    assert run.result()["validation_perplexity"] == result["validation_perplexity"]


def test_a_source_is_there_in_time_and_its_training_counts():
    assert sources("lc_70") == ["lc_50", "dense_tuned"]
    assert sources("lc_50_file") == ["dense_tuned"]
    assert sources("admm_50_file") == sources("admm_50") == []
    assert {name: trained_times(name) for name in ("dense_tuned", "lc_50", "lc_70")} == {
        "dense_tuned": 1, "lc_50": 2, "lc_70": 5,
    }  # fmt: skip
    assert teacher("lc_70") == teacher("lc_50") == "dense_tuned"
    for row in ("dense_tuned", "dense_tuned_thrice", "structured_tuned"):
        assert teacher(row) is None
    for name, row in TRAINED.items():
        assert all(trained_times(dense) <= trained_times(name) for dense in dense_rows(name))
        assert {TRAINED[dense].start for dense in dense_rows(name)} == {None}
        if row.source:
            assert len(row.candidates) == 1
            assert ROWS.index(row.source) < ROWS.index(name)
    alone = Config(row=("lc_70",)).rows()
    assert alone == (
        "dense",
        "dense_tuned",
        "dense_tuned_twice",
        "dense_tuned_thrice",
        "dense_tuned_longer",
        "lc_50",
        "lc_70",
    )


@pytest.mark.parametrize(
    ("once", "twice", "best"), [(20, 25, "dense_tuned"), (20, 16, "dense_tuned_twice")]
)
def test_training_is_compared_with_the_best_dense_network(once, twice, best):
    validation = {
        "dense": 50, "dense_tuned": once, "dense_tuned_twice": twice, "dense_tuned_thrice": 10,
        "lc_50": 40, "lc_50_file": 50, "wanda_50": 100, "structured_tuned": 60,
    }  # fmt: skip
    rows = [
        {"name": name, "validation_perplexity": summary([value])}
        for name, value in validation.items()
    ]
    found = {row["name"]: row for row in with_ratios(rows)}
    for name, dense in (
        ("wanda_50", "dense"), ("lc_50", best), ("lc_50_file", best), ("dense_tuned_twice", best),
        ("structured_tuned", "dense_tuned"), ("dense_tuned_thrice", "dense_tuned_thrice"),
    ):  # fmt: skip
        assert found[name]["compared_with"] == dense
        expected = validation[name] / validation[dense]
        assert found[name]["validation_perplexity_ratio"]["mean"] == expected


def test_bad_flags_are_named():
    with pytest.raises(ValueError, match="--windows must be at least 1; got 0"):
        Config(windows=0).check()
