"""The experiment as its users run it: from the command line, on the real MNIST."""

import json
import math
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.constrained_l0.__main__ import planned
from experiments.constrained_l0.config import DEFAULTS, PUBLISHED, ROWS, Config, check
from experiments.constrained_l0.networks import (
    GatedNetwork,
    architecture,
    multiply_accumulates,
    published_macs,
)
from experiments.constrained_l0.report import renew
from sparsejax.constraints import expected_density
from sparsejax.inspection import macs
from sparsejax.models import LeNet300
from tests.experiments.command import run_module
from tests.experiments.finished import check_read_back


def run(output, *flags):
    return run_module(
        "experiments.constrained_l0", "--preset", "smoke", "--seeds", "0",
        "--output", output, *flags,
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(mnist, tmp_path_factory):
    del mnist  # it is prepared by now
    output = tmp_path_factory.mktemp("smoke") / "run"
    rows = ["--row", "mlp_33", "controllability", "bisection"]
    return output, run(output, *rows, "--target", "0.85", "--closing", "0.5")


def plan(config, dataset):
    check(config)
    return planned(config, dataset, "mlp_33")


def results(output):
    """What each run ended with, without the times."""
    found = {}
    for file in sorted(output.glob("**/result.json")):
        result = json.loads(file.read_text())
        del result["seconds"], result["finished"]
        found[str(file.relative_to(output))] = result
    return found


def test_prints_the_table_and_writes_report_and_figures(finished):
    output, process = finished
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    assert "1.77 % / 1.40 %" in process.stdout  # the published figures stand beside ours
    for name in ("report.md", "report.json", "dynamics.png", "controllability.png", "gates.png"):
        assert (output / "results" / name).stat().st_size > 1000
    report = json.loads((output / "results" / "report.json").read_text())
    assert report["experiment"] == "constrained_l0"
    rows = {row["name"]: row for row in report["rows"]}
    row = rows["mlp_33"]
    assert row["seeds"] == [0]
    assert row["settings"]["epochs"] == 3
    assert row["test_error"]["values"][0] < 20
    assert row["best_test_error"]["mean"] <= row["test_error"]["mean"]
    assert row["purging_moved_a_logit_by"][0] < 1e-3
    first, second, third = row["architecture"][0]
    counted = first * second + second * third + third * 10
    assert row["macs"] == [counted]
    assert row["nonzeros"] == [counted + second + third + 10]
    assert row["published_macs"] == [counted + second + third + 10 + second + third]
    assert [found["target"] for found in rows["controllability"]["by_target"]] == [0.85]
    assert rows["bisection"]["runs"] == 2
    assert not rows["bisection"]["found"]
    assert "2 penalised runs did not suffice" in (output / "results" / "report.md").read_text()


def test_resumed_halfway_it_ends_at_the_same_bits(finished, tmp_path):
    output, _ = finished
    shutil.copytree(output / "mlp_33", tmp_path / "mlp_33")
    folder = tmp_path / "mlp_33" / "seed_0"
    (folder / "result.json").unlink()
    for checkpoint in (folder / "checkpoints").iterdir():
        if "1287" in checkpoint.name:  # the last: the run was killed before
            shutil.rmtree(checkpoint) if checkpoint.is_dir() else checkpoint.unlink()
    process = run(
        tmp_path, "--row", "mlp_33", "--target", "0.85", "--closing", "0.5", "--resume"
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    name = "mlp_33/seed_0/result.json"
    assert results(tmp_path)[name] == results(output)[name]


def test_finished_runs_are_not_run_again(finished):
    output, _ = finished
    process = run(output, "--row", "mlp_33", "--target", "0.85", "--closing", "0.5", "--resume")
    assert "(already there)" in process.stdout, process.stderr


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
        ({"closing": 2.0}, r"--closing must be in \[0, 1\]; got 2.0"),
        ({"penalty": -1.0}, "--penalty must be finite and >= 0; got -1.0"),
    ],
)
def test_bad_flags_are_named_before_anything_is_trained(mnist, tmp_path, flags, message):
    config = Config(row=("mlp_33",), preset="smoke", seeds=(0,), output=tmp_path / "run", **flags)
    with pytest.raises(ValueError, match=message):
        plan(config, mnist)


def test_a_bad_flag_ends_in_one_line(mnist, tmp_path):
    del mnist
    process = run(tmp_path, "--row", "mlp_33", "--target", "0")
    assert process.returncode == 1
    assert process.stderr == "error: target must be a density in (0, 1]; got 0.0\n"


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


def test_the_report_can_be_written_anew_without_the_runs(tmp_path):
    kept = Path(__file__).parents[2] / "results" / "constrained_l0"
    for name in ("report.json", "report.md"):
        shutil.copy(kept / name, tmp_path)
    renew(tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "2.19 % / 1.58 %" in text
    assert "28.5 % | 26.7 % | 28.7 %" in text  # MACs of mlp_33: products, theirs, ours
    made = [line for line in (kept / "report.md").read_text().splitlines() if "Made by" in line]
    assert made[0] in text
    old, new = (json.loads((folder / "report.json").read_text()) for folder in (kept, tmp_path))
    assert [row["test_error"] for row in new["rows"]] == [row["test_error"] for row in old["rows"]]
    assert new["machine"] == old["machine"]
    assert renew(tmp_path)
    assert (tmp_path / "report.md").read_text() == text


def test_the_network_can_be_read_back(finished):
    output, _ = finished
    folder = output / "mlp_33" / "seed_0"
    network = check_read_back(folder, json.loads((folder / "result.json").read_text()))
    assert network.name == "mlp_33"
