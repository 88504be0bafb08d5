import mmap
import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from experiments.data import SPECS, builders, load
from tests.experiments.data.tiny import ARRAYS, SPEC, write_idx


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """The folder of a tiny dataset in the user's own files, and the list of its preparations."""
    monkeypatch.setitem(SPECS, "tiny", SPEC)
    write_idx(tmp_path / "tiny", ARRAYS)
    prepared, prepare = [], builders.prepare
    monkeypatch.setattr(builders, "prepare", lambda *a: prepared.append(a) or prepare(*a))
    return tmp_path, prepared


def tiny_load(folder):
    return load("tiny", folder, validation_size=10)


def assert_tiny(dataset):
    assert [len(split.labels) for split in dataset[1:]] == [50, 10, 20]
    np.testing.assert_array_equal(dataset.test.images, ARRAYS["test_images"])
    for split in (dataset.train, dataset.validation):
        positions = [
            np.flatnonzero((ARRAYS["train_images"] == image).all((1, 2, 3)))
            for image in split.images
        ]
        assert {len(position) for position in positions} == {1}
        np.testing.assert_array_equal(
            split.labels, ARRAYS["train_labels"][np.concatenate(positions)]
        )


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


def test_a_prepared_dataset_is_mapped_and_its_files_are_never_written(tiny):
    folder, prepared = tiny
    first, second = tiny_load(folder), tiny_load(folder)
    assert_tiny(first)
    assert_tiny(second)
    base = second.test.images
    while isinstance(base, np.ndarray):
        base = base.base
    assert isinstance(base, mmap.mmap)
    second.test.images[:] = 0  # as with any array, but in memory only
    assert_tiny(tiny_load(folder))
    assert len(prepared) == 1


def flip_a_byte(arrays):
    file = arrays / "test_images.npy"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(file, ns=(0, 0))  # the clock of a file system may be coarse


def truncate(arrays):
    os.truncate(arrays / "train_images.npy", 1000)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip_a_byte, "test_images has SHA-256 .*, not .*; making them again"),
        (truncate, "are damaged: .*; making them again"),
        (lambda arrays: (arrays / "test_labels.npy").unlink(), "are damaged: .*test_labels"),
        (lambda arrays: (arrays / "stamp.json").write_text("{"), "are damaged: .*"),
    ],
)
def test_damaged_arrays_are_made_again(tiny, damage, message):
    folder, prepared = tiny
    tiny_load(folder)
    shutil.rmtree(folder / "tiny")  # so they can only come from what TFDS has prepared
    damage(folder / "sparsejax_tiny" / "arrays")
    with pytest.warns(UserWarning, match=f"(?i)tiny: the arrays in .* {message}|{message}"):
        assert_tiny(tiny_load(folder))
    assert_tiny(tiny_load(folder))
    assert len(prepared) == 2


def test_a_copied_folder_is_checked_once(tiny, tmp_path, monkeypatch):
    folder, prepared = tiny
    tiny_load(folder)
    arrays = folder / "sparsejax_tiny" / "arrays"
    for file in arrays.glob("*.npy"):
        os.utime(file, ns=(0, 0))
    hashed, check = [], type(SPEC).check
    monkeypatch.setattr(type(SPEC), "check", lambda *a: hashed.append(a) or check(*a))
    for _ in range(2):
        assert_tiny(tiny_load(folder))
    assert (len(hashed), len(prepared)) == (1, 1)


def test_damaged_prepared_files_are_prepared_again(tiny):
    folder, _ = tiny
    tiny_load(folder)
    shutil.rmtree(folder / "sparsejax_tiny" / "arrays")
    raw = next(folder.rglob("*train.array_record*"))
    raw.write_bytes(raw.read_bytes()[: raw.stat().st_size // 2])
    with pytest.warns(UserWarning, match="prepared files are damaged, preparing again"):
        assert_tiny(tiny_load(folder))


def test_a_dataset_is_prepared_once_however_many_load_it(tiny):
    folder, prepared = tiny
    rest = folder / "sparsejax_tiny" / "incomplete_arrays"  # of a process that was killed
    rest.mkdir(parents=True)
    (rest / "train_images.npy").write_text("half")
    with ThreadPoolExecutor(4) as pool:
        for dataset in pool.map(tiny_load, [folder] * 4):
            assert_tiny(dataset)
    assert len(prepared) == 1
    assert sorted(path.name for path in rest.parent.iterdir()) == ["1.0.0", "arrays"]


def test_bad_arguments_are_named(tmp_path):
    with pytest.raises(ValueError, match="name must be one of .*; got 'imagenet'"):
        load("imagenet")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="data_dir must be a folder; .*file is a file"):
        load("mnist", tmp_path / "file")
    with pytest.raises(ValueError, match="data_dir must be a folder; .*missing does not exist"):
        load("mnist", tmp_path / "missing" / "data")
