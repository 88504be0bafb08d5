"""Gated networks on a part of MNIST."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.constrained_l0 import recipe
from experiments.constrained_l0.config import DEFAULTS, PUBLISHED, ROWS, Config
from experiments.constrained_l0.networks import (
    GatedNetwork,
    architecture,
    multiply_accumulates,
    published_macs,
)
from experiments.constrained_l0.recipe import RECIPE, plan
from sparsejax.constraints import expected_density
from sparsejax.inspection import macs
from sparsejax.models import LeNet300
from tests.experiments import smoke

MADE = ("mlp_33", "controllability", "bisection")


def config(output, row=MADE, **flags):
    return Config(
        row=row, preset="smoke", seeds=(0,), target=(0.85,), anneal_fraction=0.5, output=output,
        batch_size=250, **flags,
    )  # fmt: skip


@pytest.fixture(scope="module")
def dataset(mnist):
    """20 steps an epoch, after three of which it has learned something."""
    return smoke.part(mnist, train=5000, others=1000)


@pytest.fixture(scope="module")
def finished(dataset, tmp_path_factory):
    chosen = config(tmp_path_factory.mktemp("smoke") / "run")
    return chosen, *smoke.run(RECIPE, recipe, dataset, chosen)


def test_trains_purges_and_reports(finished):
    chosen, printed, found = finished
    assert "1.77 % / 1.40 %" in printed  # the published figures stand beside ours
    rows = {row["name"]: row for row in found}
    row = rows["mlp_33"]
    assert row["seeds"] == [0]
    assert row["settings"]["epochs"] == 3
    assert row["settings"]["anneal_fraction"] == 0.5
    assert row["test_error"]["values"][0] < 60
    assert row["best_test_error"]["mean"] <= row["test_error"]["mean"]
    assert row["purging_logit_difference"][0] < 1e-3
    first, second, third = row["architecture"][0]
    counted = first * second + second * third + third * 10
    assert row["macs"] == [counted]
    assert row["nonzeros"] == [counted + second + third + 10]
    assert row["published_macs"] == [counted + second + third + 10 + second + third]
    assert [by["target"] for by in rows["controllability"]["by_target"]] == [0.85]
    assert rows["bisection"]["runs"] == 2
    assert not rows["bisection"]["found"]
    text = (chosen.report_folder / "report.md").read_text()
    assert "2 penalised runs did not suffice" in text
    for name in ("dynamics.png", "controllability.png", "gates.png"):
        assert f"]({name})" in text
        assert (chosen.report_folder / name).exists()


def test_the_figures_show_what_was_measured(finished, dataset):
    chosen, _, rows = finished
    ended = {}
    with smoke.loading(recipe, dataset):
        for run in plan(chosen):
            ended.setdefault(run.row, []).append(run)
    drawn = RECIPE.figures(rows, ended)
    density, multiplier, error = drawn["dynamics.png"].axes
    metrics = ended["mlp_33"][0].metrics()
    for axis, key in ((density, "density"), (multiplier, "largest_multiplier"), (error, "error")):
        np.testing.assert_array_equal(axis.lines[0].get_ydata(), [row[key] for row in metrics])
    assert density.lines[1].get_ydata()[0] == 0.85  # the target
    (left, right) = drawn["controllability.png"].axes
    purged, reached = (points.get_offsets().data for points in left.collections)
    (by,) = next(row for row in rows if row["name"] == "controllability")["by_target"]
    np.testing.assert_allclose(reached, [[85, 100 * by["expected_density"][0]]])
    np.testing.assert_allclose(purged, [[85, 100 * by["density"][0]]])
    np.testing.assert_allclose(right.collections[0].get_offsets()[0][1], by["test_error"]["mean"])
    counts = {"dense1": 784, "dense2": 300, "dense3": 100}
    titles = [axis.get_title() for axis in drawn["gates.png"].axes]
    assert titles == [f"mlp_33: {layer}, {count} gates" for layer, count in counts.items()]
    for axis, count in zip(drawn["gates.png"].axes, counts.values(), strict=True):
        assert sum(bar.get_height() for bar in axis.patches) == count
    assert RECIPE.figures(rows, {}) == {}


def test_finished_runs_are_not_run_again(finished, dataset):
    chosen, _, rows = finished
    before = smoke.results(chosen.folder)
    printed, found = smoke.run(
        RECIPE, recipe, dataset, config(chosen.folder, resume=True), drawn=False
    )
    assert printed.count("(already there)") == 4
    assert smoke.results(chosen.folder) == before
    assert found == rows


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"target": (0.0,)}, r"target must be a density in \(0, 1\]; got 0"),
        ({"target": (1.5,)}, r"target must be a density in \(0, 1\]; got 1.5"),
        ({"target": (0.001,)}, "smallest feasible"),
        ({"target": (0.3, 0.3)}, "--target must be one number or one for each of"),
        ({"log_alpha_high": (1.0, 2.0)}, "--log-alpha-high must be one number or one for each of"),
        ({"drop_rate": 1.0}, r"drop_rate must be in \(0, 1\); got 1.0"),
        ({"log_alpha_low": (2.0,)}, "low must not be above high"),
        ({"learning_rate": -1.0}, "--learning-rate must be positive; got -1.0"),
        ({"anneal_fraction": 2.0}, r"--anneal-fraction must be in \[0, 1\]; got 2.0"),
        ({"penalty": -1.0}, "--penalty must be finite and >= 0; got -1.0"),
    ],
)
def test_bad_flags_are_named_before_anything_is_trained(dataset, tmp_path, flags, message):
    chosen = Config(row=("mlp_33",), preset="smoke", seeds=(0,), output=tmp_path / "run", **flags)
    with pytest.raises(ValueError, match=message):
        smoke.run(RECIPE, recipe, dataset, chosen)
    assert not (tmp_path / "run").exists()


def test_flags_become_settings():
    chosen = smoke.parsed(
        Config, "--row", "mlp_33", "bisection", "--epochs", "5", "--target", "0.5", "0.4", "0.3",
        "--penalty", "2", "--initialisation", "published", "--learning-rate", "1",
        "--weight-decay", "2", "--gate-learning-rate", "3", "--rate-decay", "none",
        "--first-drop-rate", "0.4", "--drop-rate", "0.6", "--log-alpha-low", "-3",
        "--log-alpha-high", "3", "--dual", "ascent", "--dual-rate", "4", "--proportional-gain", "5",
        "--anneal-fraction", "0.7", "--margin", "0.1", "--batch-size", "9", "--whole-training-set",
    )  # fmt: skip
    expected = {
        "epochs": 5, "initialisation": "published", "learning_rate": 1, "weight_decay": 2,
        "gate_learning_rate": 3, "rate_decay": "none", "first_drop_rate": 0.4, "drop_rate": 0.6,
        "log_alpha_low": -3, "log_alpha_high": 3, "dual_rate": 4, "proportional_gain": 5,
        "anneal_fraction": 0.7, "margin": 0.1, "batch_size": 9, "whole_training_set": True,
    }  # fmt: skip
    constrained, penalised = chosen.settings("mlp_33"), chosen.settings("bisection")
    assert constrained.items() >= (expected | {"target": [0.5, 0.4, 0.3], "dual": "ascent"}).items()
    assert penalised.items() >= (expected | {"penalty": 2, "dual": "fixed"}).items()
    assert chosen.rows() == ("mlp_33", "bisection")
    with pytest.raises(SystemExit):
        smoke.parsed(Config, "--closing", "0.5")


@pytest.mark.parametrize("row", ROWS)
def test_every_row_has_the_settings_its_runs_read(row):
    settings = Config().settings(row)
    assert settings["dual"] == "fixed" or "target" in settings
    assert ("penalty" in settings) == (settings["dual"] == "fixed")
    assert settings["row"] == row
    assert set(DEFAULTS) == set(ROWS)


@pytest.mark.parametrize(
    ("name", "wanted", "count", "published", "ungated"),
    [
        ("mlp", [784, 300, 100], 266_200, 267_010, 410),
        ("lenet5", [20, 50, 800, 500], 2_293_000, 2_327_130, 510),
    ],
)
def test_networks_count_parameters_and_operations_as_published(
    name, wanted, count, published, ungated
):
    network = GatedNetwork(name, (0.2, 0.5), seed=0)
    model = network.kind.model(rngs=nnx.Rngs(0))
    assert architecture(model) == wanted
    assert multiply_accumulates(model) == count
    assert published_macs(wanted) == published
    # With every gate closed, the biases that no gate takes along are left.
    phi = jax.tree.map(lambda leaf: jnp.full_like(leaf, -jnp.inf), network.initial["gates"])
    left = expected_density(network.activity(network.initial | {"gates": phi}))
    total = {"mlp": 266_610, "lenet5": 431_080}[name]
    np.testing.assert_allclose(left, ungated / total, rtol=1e-5)


def test_a_smaller_mlp_is_counted_as_the_library_counts_it():
    model = LeNet300(units=(31, 17), kept_inputs=range(50), rngs=nnx.Rngs(0))
    graph, weights, rest = nnx.split(model, nnx.Param, ...)
    counted = macs(
        lambda weights, x: nnx.merge(graph, weights, rest)(x), weights,
        jax.ShapeDtypeStruct((1, 784), jnp.float32), count="published",
    )  # fmt: skip
    assert published_macs(architecture(model)) == counted


def deviations(name, initialisation, rates):
    """Standard deviations of each layer's kernel and bias, over ten seeds."""
    seeds = [
        GatedNetwork(name, rates, seed, initialisation).initial["weights"] for seed in range(10)
    ]
    return {
        (layer, kind): float(np.std([np.asarray(weights[layer][kind][...]) for weights in seeds]))
        for layer in seeds[0]
        for kind in ("kernel", "bias")
    }


@pytest.mark.parametrize("initialisation", ["fan_out", "published"])
def test_kernels_and_biases_start_as_the_docstring_says(initialisation):
    published = initialisation == "published"
    found = deviations("lenet5", initialisation, (0.5, 0.5))
    kernels = {"conv1": 0.566, "conv2": 0.126} if published else {"conv1": 0.126, "conv2": 0.080}
    kernels |= {"dense1": math.sqrt(2 / 500) / 0.5, "dense2": math.sqrt(2 / 10) / 0.5}
    biases = {"conv1": 0.02, "conv2": 0.02, "dense1": 0.01, "dense2": 0.01}
    for layer, deviation in kernels.items():
        assert found[layer, "kernel"] == pytest.approx(deviation, rel=0.05)
        expected = biases[layer] if published else 0
        assert found[layer, "bias"] == pytest.approx(expected, rel=0.3)
    found = deviations("lenet5", initialisation, (0.2, 0.5))  # each layer by its own rate
    assert found["conv1", "kernel"] == pytest.approx(kernels["conv1"] * 0.5 / 0.8, rel=0.05)
    if published:
        assert found["conv1", "bias"] == pytest.approx(0.0125, rel=0.3)


def test_the_published_defaults_and_figures_are_the_published_ones():
    ours = Config().settings("mlp_33_published")
    assert (ours["dual"], ours["dual_rate"], ours["initialisation"]) == (
        "restarts", 1e-4, "published",
    )  # fmt: skip
    # The rows in results/ were made at ten times that rate.
    for row in ("mlp_33_restarts", "mlp_33_ascent"):
        assert Config().settings(row)["dual_rate"] == 1e-3
        assert Config().settings(row)["initialisation"] == "fan_out"
    assert PUBLISHED["mlp_layerwise_30"]["best_test_error"] == 1.58


def test_the_network_can_be_read_back(finished, dataset):
    found = smoke.check_readable(finished[0].folder / "mlp_33" / "seed_0", dataset)
    assert found.name == "mlp_33"
