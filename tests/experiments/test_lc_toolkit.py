"""The rows of the LC toolkit's table on a part of MNIST."""

import json

import numpy as np
import pytest

from experiments.common import saved_runs
from experiments.lc_toolkit import recipe
from experiments.lc_toolkit.c_steps import C_STEPS, where
from experiments.lc_toolkit.config import DEFAULTS, PUBLISHED, ROWS, Config
from experiments.lc_toolkit.recipe import RECIPE
from sparsejax.compression import decode
from sparsejax.deploy import load_sparse
from tests.experiments import smoke

SHAPES = ((784, 300), (300, 100), (100, 10))
SHOWN = ("quantize_first_third", "quantize_plus_1pct", "prune_lowrank_quantize", "rank_selection")


def config(output, **flags):
    return Config(preset="smoke", seeds=(0,), batch_size=250, output=output, row=SHOWN, **flags)


@pytest.fixture(scope="module")
def finished(small_mnist, tmp_path_factory):
    chosen = config(tmp_path_factory.mktemp("smoke") / "run")
    return chosen, *smoke.run(RECIPE, recipe, small_mnist, chosen)


def kernels_of(chosen, row):
    params = decode(load_sparse(chosen.folder / row / "seed_0" / "network.safetensors"))
    return [params[layer]["kernel"] for layer in ("dense1", "dense2", "dense3")]


def test_no_test_error_is_computed_before_the_settings_are_final(finished):
    chosen, printed, rows = finished
    for file in chosen.folder.glob("*/*/*.json*"):
        assert "test" not in file.read_text()
    assert all("test_error" not in row for row in rows)
    assert printed.count("test error") == 2  # the headers of two columns
    assert printed.count("(not looked at)") == 4


def test_final_adds_the_test_errors_of_the_same_networks(finished, small_mnist):
    chosen, _, rows = finished
    again = config(chosen.folder, resume=True, final=True)
    printed, found = smoke.run(RECIPE, recipe, small_mnist, again, drawn=False)
    assert printed.count("(already there)") == 5  # the reference, too
    for before, after in zip(rows, found, strict=True):
        assert 0 < after.pop("test_error")["mean"] < 95
        assert after == before


def test_each_row_is_compressed_as_it_says(finished):
    chosen, _, _ = finished
    first, second, third = kernels_of(chosen, "prune_lowrank_quantize")
    assert np.count_nonzero(first) == 5_000
    assert np.linalg.matrix_rank(second) == 10
    assert np.unique(third).size == 2
    first, second, third = kernels_of(chosen, "quantize_first_third")
    assert [np.unique(kernel).size for kernel in (first, third)] == [2, 2]
    assert np.unique(second).size > 1_000
    everything = np.concatenate([k.ravel() for k in kernels_of(chosen, "quantize_plus_1pct")])
    values, counts = np.unique(everything, return_counts=True)
    assert counts[np.argsort(counts)[-2:]].sum() >= everything.size - 2_662
    assert len(values) > 100


def test_the_bits_are_those_of_the_forms(finished):
    _, _, rows = finished
    biases = 32 * 410
    # One bit a weight, two values for each of two layers, 30,000 whole weights, the biases.
    bits = 235_200 + 1_000 + 4 * 32 + 32 * 30_000 + biases
    assert rows[0]["storage_bits"] == [bits]
    assert rows[0]["compression_ratio"] == [32 * 266_610 / bits]
    (ranks,) = rows[3]["ranks"]
    factors = [rank * sum(shape) for rank, shape in zip(ranks, SHAPES, strict=True)]
    whole = [inputs * outputs for inputs, outputs in SHAPES]
    kept = sum(min(pair) for pair in zip(factors, whole, strict=True))
    assert rows[3]["storage_bits"] == [32 * kept + biases]


def test_every_row_has_a_c_step_settings_and_a_place_in_the_report():
    assert set(DEFAULTS) == set(ROWS) == set(recipe.report._WAYS)
    assert set(C_STEPS) == set(ROWS) - {"reference"}
    assert set(PUBLISHED) < set(ROWS)
    for row in C_STEPS:
        json.dumps(Config().settings(row))
        assert callable(where(row))


def test_bad_flags_are_named(small_mnist, tmp_path):
    with pytest.raises(ValueError, match="mu_schedule must be positive"):
        smoke.run(RECIPE, recipe, small_mnist, config(tmp_path, mu=-1.0))
    assert not list(tmp_path.glob("**/checkpoints"))  # before anything is trained


def test_flags_become_settings():
    chosen = smoke.parsed(
        Config, "--row", "ternary_all", "reference", "--preset", "paper", "--decay", "0.5",
        "--no-multipliers", "--activation", "relu", "--mu", "3", "--mu-growth", "4",
        "--learning-rate", "5", "--learning-rate-decay", "0.6", "--cooldown", "0.7",
        "--batch-size", "8", "--seeds", "3", "4", "--validation-fold", "2", "--final", "--resume",
    )  # fmt: skip
    assert chosen.rows() == ("reference", "ternary_all")
    expected = {
        "decay": 0.5, "multipliers": False, "activation": "relu", "mu": 3, "mu_growth": 4,
        "learning_rate": 5, "learning_rate_decay": 0.6, "cooldown": 0.7, "batch_size": 8,
        "validation_fold": 2, "epochs_per_l_step": 20, "first_l_step_epochs": 40, "l_steps": 40,
    }  # fmt: skip
    assert chosen.settings("ternary_all").items() >= expected.items()
    assert chosen.settings("reference")["learning_rate"] == 0.1  # it keeps its own
    assert chosen.final


def test_a_network_in_forms_can_be_deployed(finished, small_mnist):
    chosen, _, _ = finished
    folder = chosen.folder / "prune_lowrank_quantize" / "seed_0"
    with smoke.loading(saved_runs, small_mnist):
        found = saved_runs.read(folder, None, None, 0)
    assert np.count_nonzero(found.network.params["dense1"]["kernel"]) == 5_000
    assert found.name == "lenet300_prune_lowrank_quantize"
