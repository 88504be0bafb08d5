"""LeNet5 pruned on a part of MNIST, and VGG-16 on a few images of ImageNet's format."""

import dataclasses
import json
import math
import shutil

import jax
import numpy as np
import pytest
from flax import nnx

from experiments.common.report import summary
from experiments.data import DataError
from experiments.gated_decay import recipe, tasks
from experiments.gated_decay.config import CITED, LENET5_PARAMETERS, ROWS, Config
from experiments.gated_decay.recipe import RECIPE, plan
from experiments.gated_decay.report import parts
from sparsejax.models import LeNet5
from tests.experiments import smoke
from tests.experiments.data.test_imagenet import pictures, prepare
from tests.models.test_vgg16_weights import imagenet_file


def config(output, **flags):
    return Config(
        preset="smoke", seeds=(0,), dataset=("mnist",), kappa=(50_000,), lower_bound=0.1,
        min_weights=160_000, fraction=0.3, batch_size=50, eval_interval=4, output=output, **flags,
    )  # fmt: skip


@pytest.fixture(scope="module")
def dataset(mnist):
    """Ten steps an epoch: the programs run slowly, since they are compiled quickly."""
    return smoke.part(mnist, train=500, others=500)


@pytest.fixture(scope="module")
def finished(dataset, tmp_path_factory):
    chosen = config(tmp_path_factory.mktemp("smoke") / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "_PIECE", 100)
        return chosen, *smoke.run(RECIPE, recipe, dataset, chosen)


def test_prunes_fine_tunes_and_reports(finished):
    chosen, printed, rows = finished
    assert "99.22 %" in printed  # the published figure stands beside ours
    assert [row["name"] for row in rows] == ["mnist", "mnist_50000"]
    row, compressed = rows
    assert row["pruned_nonzeros"] == [160000]
    assert compressed["nonzeros"] == [50000]
    assert compressed["test_error"]["mean"] < 60
    assert row["test_error"]["mean"] < 60
    (nonzeros,), (prunings,) = row["nonzeros"], row["prunings"]
    assert prunings == 3  # after two, 211,229 are left; the third takes no more than is wanted
    assert 159_000 < nonzeros <= 160_000
    assert sum(row["layer_nonzeros"][0]) == nonzeros
    assert row["bzip2_bytes"][0] < row["dense_bzip2_bytes"][0]
    assert row["neglected_share"] > 0
    assert "neglected_share" not in compressed
    text = (chosen.report_folder / "report.md").read_text()
    assert f"a norm of {row['neglected_share']:.2%} (mnist)" in text
    for name in ("frontier.png", "curves.png", "weights.png", "filters.png"):
        assert f"]({name})" in text


def test_a_dense_network_is_compressed(dataset, tmp_path):
    chosen = config(tmp_path / "run", dense_kappa=(60_000, 50_000), finetune_distillation=0.5)
    printed, rows = smoke.run(RECIPE, recipe, dataset, chosen, drawn=False)
    names = [
        name for kappa in (60, 50) for name in (f"dense_{kappa}000", f"dense_{kappa}000_distilled")
    ]
    assert [row["name"] for row in rows] == [f"mnist_{name}" for name in names]
    plain, distilled = rows[::2], rows[1::2]
    # Units that die take weights along.
    assert 50_000 < plain[0]["nonzeros"][0] <= 60_000
    assert 40_000 < plain[1]["nonzeros"][0] <= 50_000
    assert {row["method"] for row in plain} == {"learning_compression"}
    assert {row["method"] for row in distilled} == {"learning_compression, distillation"}
    assert all(row["test_error"]["mean"] < 60 for row in rows)
    assert [list(row["epochs"][0]) for row in rows] == [["start", "compress", "finetune"]] * 4
    folder = chosen.folder / "mnist" / "seed_0"
    phases = [{path.name for path in (folder / name).iterdir() if path.is_dir()} for name in names]
    # All have one dense network, and both networks of a size are compressed once.
    assert phases == [
        {"start", "compress", "finetune"}, {"finetune"}, {"compress", "finetune"}, {"finetune"},
    ]  # fmt: skip
    for one, other in zip(plain, distilled, strict=True):
        assert one["nonzeros"] == other["nonzeros"]
        assert one["seconds"] != other["seconds"]
    assert "neglects" not in printed
    assert "by gated weight decay" not in printed
    for name in names:  # a run is named as its row
        assert f"mnist_{name} seed 0: test accuracy" in printed


def test_a_share_of_the_loss_is_the_divergence_from_the_dense_network(dataset):
    settings = {"batch_size": 4, "shift": 0, "mirror": False}
    task, dense = (
        tasks.LeNet5Task(dataset, settings, LeNet5(rngs=nnx.Rngs(seed))) for seed in (0, 1)
    )
    batch = {name: array[:8] for name, array in task.examples().items()}
    key = jax.random.key(0)
    found, _ = task.loss_towards(dense, dense.initial, 0.7)(task.initial, batch, key)

    def log_probabilities(network, temperature):
        model = LeNet5(rngs=nnx.Rngs(0))
        nnx.update(model, nnx.State(network.initial))
        logits = np.float64(model(batch["image"].astype(np.float32) / 255)) / temperature
        return logits - np.log(np.exp(logits).sum(-1, keepdims=True))

    hard = -log_probabilities(task, 1)[np.arange(8), batch["label"]].mean()
    ours, theirs = (log_probabilities(network, 2) for network in (task, dense))
    soft = 4 * (np.exp(theirs) * (theirs - ours)).sum(-1).mean()
    np.testing.assert_allclose(found, 0.3 * hard + 0.7 * soft, rtol=1e-4)


def test_the_figures_show_what_was_measured(finished, dataset):
    chosen, _, rows = finished
    ended = {}
    with smoke.loading(recipe, dataset):
        for run in plan(chosen):
            ended.setdefault(run.row, []).append(run)
    drawn = RECIPE.figures(rows, ended)
    (axis,) = drawn["frontier.png"].axes
    labels = [text.get_text() for text in axis.get_legend().get_texts()]
    ours = [f"ours, {row['nonzeros'][0]:,} left" for row in rows]
    assert labels == [*ours, *CITED["mnist"]]
    for points, row in zip(axis.collections, rows, strict=False):
        expected = [[100 * row["density"][0], 100 - row["test_error"]["mean"]]]
        np.testing.assert_allclose(points.get_offsets(), expected)
    left, right, *_ = drawn["curves.png"].axes
    assert [line.get_label() for line in left.lines] == ["prune", "finetune"]
    assert right.lines[1].get_ydata()[0] == pytest.approx(90)  # the bound
    kernels = ended["mnist"][0].network()
    axis = drawn["weights.png"].axes[0]
    count = np.count_nonzero(kernels["conv1"]["kernel"])
    assert axis.get_title() == f"mnist: conv1, {count:,} of 500"
    assert axis.patches[0].get_data().values.sum() == count
    pictures = [axis.images[0].get_array().filled(0) for axis in drawn["filters.png"].axes]
    assert [picture.shape for picture in pictures] == [(5, 100)] * len(ended)
    np.testing.assert_array_equal(
        pictures[0][:, 15:20], kernels["conv1"]["kernel"].mean(axis=2)[..., 3]
    )


def test_finished_runs_are_not_run_again(finished, dataset):
    chosen, _, rows = finished
    # A further target, as if it had ended.
    folder = chosen.folder / "mnist" / "seed_0"
    further = shutil.copytree(folder, folder / "min_weights_150000")
    result = json.loads((further / "result.json").read_text())
    settings = result["settings"] | {"min_weights": 150_000}
    (further / "result.json").write_text(json.dumps(result | {"settings": settings}))
    before = smoke.results(chosen.folder)
    more = config(chosen.folder, resume=True, extra_targets=(150_000,))
    printed, found = smoke.run(RECIPE, recipe, dataset, more, drawn=False)
    assert printed.count("(already there)") == 3
    assert smoke.results(chosen.folder) == before
    assert found[:2] == rows
    assert found[2]["name"] == "mnist_150000"
    assert found[2]["settings"]["min_weights"] == 150_000
    text = (chosen.report_folder / "report.md").read_text()
    assert f"a norm of {rows[0]['neglected_share']:.2%} (mnist), " in text


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"lower_bound": 98.7}, r"--lower-bound must be in \[0, 1\], not in per cent; got 98.7"),
        ({"fraction": 0.0}, r"--fraction must be in \(0, 1\); got 0"),
        ({"fraction": 4.0}, r"--fraction must be in \(0, 1\); got 4"),
        ({"decay_rate": 0.0}, r"--decay-rate must be in \(0, 1\]; got 0.0"),
        ({"eval_interval": 0}, "--eval-interval must be positive; got 0"),
        ({"patience": -1}, "--patience must be >= 0; got -1"),
        ({"kappa": (862, 0)}, "--kappa must be at least 1; got 0"),
        ({"kappa": (862, 862)}, "--kappa must not name a value twice; got 862 again"),
        ({"dense_kappa": (9, 9)}, "--dense-kappa must not name a value twice; got 9 again"),
        (
            {"dense_kappa": ()},
            "--dense-kappa must name at least one number of parameters; got none",
        ),
        ({"dense_kappa": (431_081,)}, "--dense-kappa must be at most 431080, all parameters of"),
        ({"extra_targets": (7, 862)}, "--extra-targets must not hold a number of --kappa, .* 862"),
        ({"seeds": (1, 1)}, "--seeds must not name a value twice; got 1 again"),
        ({"seeds": (-1,)}, r"--seeds must be in \[0, 2\*\*32\); got -1"),
        ({"seeds": ()}, "--seeds must name at least one seed; got none"),
        ({"dataset": ()}, "--dataset must name at least one dataset; got none"),
        ({"dense_kappa": (9,), "mu": -1.0}, "--mu must be positive and finite; got -1.0"),
        ({"mu_growth": math.inf}, "--mu-growth must be finite and >= 1; got inf"),
        ({"decay": math.nan}, "--decay must be finite and >= 0; got nan"),
        ({"learning_rate": math.inf}, "--learning-rate must be positive and finite; got inf"),
        ({"momentum": 1.5}, r"--momentum must be in \[0, 1\); got 1.5"),
        ({"shift": -3}, r"--shift must be in \[0, 27\]; got -3"),
        ({"batch_size": 9999}, "--batch-size must be at most 2500, the training images of mnist"),
        (
            {"dense_kappa": (9,), "l_step_epochs": 3},
            "--l-step-epochs must divide 2, the epochs of learning-compression with --preset smoke",
        ),
        ({"l_step_epochs": 2}, "--l-step-epochs must divide 1, the epochs of"),
        (
            {"finetune_distillation": 1.5, "dense_kappa": (9,)},
            r"--finetune-distillation must be in \[0, 1\]; got 1.5",
        ),
        ({"finetune_distillation": 0.5}, "--finetune-distillation needs --dense-kappa"),
        ({"dataset": ("imagenet2012",)}, "--dataset of lenet5 must be of .* got imagenet2012"),
        ({"model": "vgg16", "shift": 1}, "--shift is for --model lenet5 alone"),
        ({"model": "vgg16"}, "--data-dir must name the folder in which TFDS has prepared"),
    ],
)
def test_bad_flags_are_named_before_anything_is_trained(small_mnist, tmp_path, flags, message):
    chosen = Config(preset="smoke", output=tmp_path / "run", **flags)
    with pytest.raises((ValueError, DataError), match=message):
        smoke.run(RECIPE, recipe, small_mnist, chosen)
    assert not (tmp_path / "run").exists()


def noted(*rows):
    """The notes of a report."""
    (notes,) = [part for part in parts(rows) if str(part).startswith("Accuracy in per cent")]
    return notes


def of_dense(finished, name="mnist_dense_9", seeds=(0,), **settings):
    """A row of a compressed dense network, with the numbers of another one."""
    row = finished[2][1]
    return row | {
        "name": name, "seeds": list(seeds),
        "settings": row["settings"] | {"compress_rate": 0.1} | settings,
    }  # fmt: skip


def test_a_report_says_how_images_were_augmented(finished):
    assert "images of MNIST are shifted by up to a pixel, which" in noted(*finished[2])
    assert "shifted" not in noted(of_dense(finished, shift=0, finetune_distillation=0.5))
    both = of_dense(finished, shift=2, mirror=True, finetune_distillation=0.5)
    assert "MNIST are shifted by up to 2 pixels and mirrored, which" in noted(both)
    assert "for the same shifted image" in noted(both)
    late = of_dense(finished, mirror=True, prune_augmented=False) | {"dataset": "fashion_mnist"}
    text = noted(of_dense(finished), late)
    assert "MNIST are shifted by up to a pixel, those of Fashion-MNIST are shifted by up" in text
    assert "and mirrored once the dense network is trained, which" in text


def test_a_report_says_which_rows_have_fewer_seeds(finished):
    one, two = of_dense(finished, "one", (0,)), of_dense(finished, "two", (0, 1))
    assert "over seeds 0, 1 (one: 0). The" in noted(one, two)
    assert "over seeds 0, 1. The" in noted(two, two)


def test_of_rows_with_as_many_parameters_the_most_accurate_is_named(finished):
    worse, better = (
        of_dense(finished, name) | {"test_error": summary([error]), "nonzeros": [9]}
        for name, error in (("worse", 0.2), ("better", 0.1))
    )
    (lines,) = [part for part in parts([worse, better]) if str(part).startswith("- mnist")]
    assert lines.count("[better]") == lines.count("mnist, at least")


def test_flags_with_which_dense_networks_are_compressed_are_not_refused(tmp_path):
    Config(output=tmp_path, dense_kappa=(LENET5_PARAMETERS,), l_step_epochs=10).check()
    Config(output=tmp_path, kappa=(), l_step_epochs=3).check()  # nothing is compressed
    network = nnx.state(LeNet5(rngs=nnx.Rngs(0)))
    assert sum(leaf.size for leaf in jax.tree.leaves(network)) == LENET5_PARAMETERS


def test_flags_become_settings(tmp_path):
    chosen = smoke.parsed(
        Config, "--dataset", "fashion_mnist", "--kappa", "7", "--lower-bound", "0.5", "--fraction",
        "0.1", "--min-weights", "11", "--extra-targets", "12", "13", "--eval-interval", "3",
        "--patience", "2", "--decay", "1", "--decay-rate", "0.4", "--mu", "5", "--mu-growth", "6",
        "--l-step-epochs", "7", "--learning-rate", "8", "--finetune-rate", "9",
        "--finetune-weight-decay", "10", "--finetune-whole", "True", "--momentum", "0.3",
        "--batch-size", "14", "--shift", "4", "--mirror", "False", "--prune-augmented", "True",
    )  # fmt: skip
    expected = {
        "lower_bound": 0.5, "fraction": 0.1, "min_weights": 11, "eval_interval": 3, "patience": 2,
        "decay": 1, "decay_rate": 0.4, "mu": 5, "mu_growth": 6, "l_step_epochs": 7,
        "learning_rate": 8, "finetune_rate": 9, "finetune_weight_decay": 10,
        "finetune_whole": True, "momentum": 0.3, "batch_size": 14, "shift": 4, "mirror": False,
        "prune_augmented": True,
    }  # fmt: skip
    assert chosen.settings("fashion_mnist").items() >= expected.items()
    assert (chosen.rows(), chosen.kappas("fashion_mnist")) == (("fashion_mnist",), (7,))
    assert chosen.extra_targets == (12, 13)
    file = tmp_path / "weights"
    flags = ("--model", "vgg16", "--weights", file, "--width", "0.5")
    settings = smoke.parsed(Config, *flags).settings("imagenet2012")
    assert (settings["weights"], settings["width"]) == (str(file), 0.5)
    for old in ("--earlier", "--at-least"):
        with pytest.raises(SystemExit):
            smoke.parsed(Config, old, "2")


def test_every_row_has_its_schedule_and_bound():
    for preset in ("smoke", "quick", "paper"):
        for model, row in [(model, row) for model, rows in ROWS.items() for row in rows]:
            settings = Config(model=model, preset=preset).settings(row)
            assert settings["prune_epochs"] > 0
            assert 0 < settings["lower_bound"] < 1


@pytest.fixture
def quick_compilation():
    """Most of the test's time is XLA's."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.mark.usefixtures("quick_compilation")
def test_vgg16_on_images_of_its_format(tmp_path, small_mnist, monkeypatch):
    """Every label is 0 and so is every prediction of the untrained network, so it prunes."""
    monkeypatch.setattr(tasks, "_FEW", 1)
    same = [dataclasses.replace(picture, label=0) for picture in pictures(8, 0)]
    prepare(tmp_path / "data", train=same, validation=same[:6])
    config = Config(
        model="vgg16", preset="smoke", seeds=(0,), width=1 / 16, batch_size=4, eval_interval=2,
        lower_bound=0.5, fraction=0.25, learning_rate=1e-5, finetune_rate=1e-5,
        weights=imagenet_file(tmp_path), data_dir=tmp_path / "data", output=tmp_path / "run",
    )  # fmt: skip
    printed, (pruned,) = smoke.run(RECIPE, recipe, small_mnist, config, drawn=False)
    assert pruned["name"] == "imagenet2012"
    assert pruned["prunings"] == [2]  # four steps, an assessment every two
    size = pruned["parameters"][0]
    left = size - math.ceil(size / 4)
    left -= math.ceil(left / 4)
    assert pruned["pruned_nonzeros"] == [left]
    assert "imagenet2012 seed 0" in printed
    with pytest.raises(ValueError, match="RUNS must be of networks on small images"):
        smoke.check_readable(tmp_path / "run" / "imagenet2012" / "seed_0", small_mnist)


def test_the_network_can_be_read_back(finished, dataset):
    found = smoke.check_readable(finished[0].folder / "mnist" / "seed_0", dataset)
    left = sum(int((leaf != 0).sum()) for leaf in jax.tree.leaves(found.network.params))
    assert (found.name, left) == ("lenet5_mnist", found.result["nonzeros"])
