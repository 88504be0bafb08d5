import shutil

import numpy as np
import pytest

from experiments.data import SPECS, load
from experiments.data.load import default_data_dir


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_three_splits_of_the_real_images(name):
    dataset = load(name)
    sizes = {"train": 55_000, "validation": 5_000, "test": 10_000}
    for split, size in sizes.items():
        images, labels = getattr(dataset, split)
        assert images.shape == (size, *SPECS[name].image_shape)
        assert images.dtype == np.uint8
        assert labels.shape == (size,)
        assert labels.dtype == np.int32
    shares = [np.bincount(getattr(dataset, split).labels) / size for split, size in sizes.items()]
    np.testing.assert_allclose(shares[0], shares[1], atol=2e-4)  # stratified


def test_the_validation_images_are_always_the_same(mnist):
    again = load("mnist")
    np.testing.assert_array_equal(again.validation.labels, mnist.validation.labels)
    np.testing.assert_array_equal(again.validation.images, mnist.validation.images)
    smaller = load("mnist", validation_size=0)
    assert len(smaller.train.labels) == 60_000


def test_damaged_prepared_files_are_prepared_again(mnist, tmp_path):
    del mnist  # it is prepared by now
    folder = tmp_path / "data"
    shutil.copytree(default_data_dir() / "sparsejax_mnist", folder / "sparsejax_mnist")
    raw = max(folder.rglob("*array_record*"), key=lambda file: file.stat().st_size)
    raw.write_bytes(raw.read_bytes()[: raw.stat().st_size // 2])
    with pytest.warns(UserWarning, match="prepared files are damaged, preparing again"):
        dataset = load("mnist", folder)
    assert len(dataset.train.labels) == 55_000


def test_bad_arguments_are_named(tmp_path):
    with pytest.raises(ValueError, match="name must be one of .*; got 'imagenet'"):
        load("imagenet")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="data_dir must be a folder; .*file is a file"):
        load("mnist", tmp_path / "file")
    with pytest.raises(ValueError, match="data_dir must be a folder; .*missing does not exist"):
        load("mnist", tmp_path / "missing" / "data")
