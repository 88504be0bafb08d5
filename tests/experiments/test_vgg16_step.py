import json
import re
import sys

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from experiments.common.runner import command_line
from experiments.vgg16_step.__main__ import Config, _batch, main
from sparsejax.models import VGG16_LAYERS
from tests.experiments.data.test_imagenet import pictures, prepare
from tests.models.test_vgg16_weights import imagenet_file

WIDTH = 1 / 16


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return imagenet_file(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def quick_compilation():
    """Most of the test's time is XLA's."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def run(monkeypatch, *flags):
    monkeypatch.setattr(sys, "argv", ["vgg16_step", *flags])
    command_line(Config, "experiments.vgg16_step", main)


@pytest.mark.usefixtures("quick_compilation")
def test_measures_a_step_at_reduced_width(weights, tmp_path, monkeypatch, capsys):
    output = tmp_path / "new" / "figures.json"
    run(
        monkeypatch, "--width", str(WIDTH), "--weights", str(weights), "--batch-size", "1",
        "--density", "0.1", "--output", str(output),
    )  # fmt: skip
    printed = capsys.readouterr()
    assert printed.err == ""
    found = json.loads(output.read_text())
    size = sum(array.size for array in _tensors(weights))
    kernels = sum(array.size for array in _tensors(weights) if array.ndim > 1)
    assert found["parameters"] == size
    assert found["kappa"] == found["kept_after_step"] == round(0.1 * kernels)
    assert f"{size:,} parameters" in printed.out
    assert f"theta has {found['kappa']:,} non-zeros" in printed.out
    # Parameters, momentum, and of the kernels alone theta and the multipliers.
    assert found["state_copies"] == pytest.approx(2 + 2 * kernels / size, abs=1e-3)
    # The last layer of the file is zero: all classes are equally likely.
    assert found["loss"] == pytest.approx(np.log(1000), rel=1e-5)
    assert found["config"]["weights"] == str(weights)
    parts = {"direct_compression", "step", "c_step"}
    assert found["seconds"].keys() == found["compile_seconds"].keys() == parts
    assert all(0 < seconds < 300 for seconds in found["seconds"].values())
    peaks = [found["peak_host_gib"][name] for name in ("start", "direct_compression", "step")]
    assert 0 < peaks[0] <= peaks[1] <= peaks[2] < 20
    assert found["versions"]["jax"]
    assert found["machine"]["cores"]


def _tensors(file):
    tensors = load_file(file)
    assert len(tensors) == 2 * len(VGG16_LAYERS)
    return tensors.values()


def test_takes_real_images_where_they_are(tmp_path):
    prepare(tmp_path, train=pictures(3, 0))
    batch = _batch(Config(batch_size=3, data_dir=tmp_path))
    random = _batch(Config(batch_size=3))
    for name in ("image", "label"):
        assert batch[name].shape == random[name].shape
        assert batch[name].dtype == random[name].dtype
    assert sorted(batch["label"]) == sorted(picture.label for picture in pictures(3, 0))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--batch-size", "0"], "batch_size must be >= 1; got 0"),
        (["--density", "0"], "density must be more than 0 and at most 1; got 0.0"),
        (["--width", "-1"], "width must be a positive number; got -1.0"),
        (["--weights", "nowhere"], "No such file or directory: nowhere"),
        (["--width", "0.01", "--data-dir", "nowhere"], "ImageNet: no .*nowhere/imagenet2012/"),
    ],
)
def test_a_mistake_ends_with_its_name(flags, message, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, *flags)
    assert ended.value.code
    assert re.search(message, f"{ended.value} {capsys.readouterr().err}")
