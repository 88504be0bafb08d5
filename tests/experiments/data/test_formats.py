import gzip
import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from experiments.data import formats


def idx_bytes(array):
    header = bytes([0, 0, 8, array.ndim]) + np.asarray(array.shape, ">i4").tobytes()
    return header + array.astype(np.uint8).tobytes()


@pytest.fixture
def idx_arrays():
    rng = np.random.default_rng(0)
    return {
        "train_images": rng.integers(0, 256, (6, 28, 28)), "train_labels": rng.integers(0, 9, 6),
        "test_images": rng.integers(0, 256, (3, 28, 28)), "test_labels": rng.integers(0, 9, 3),
    }  # fmt: skip


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_reads_idx_plain_and_gzipped(idx_arrays, suffix, tmp_path):
    for key, name in formats.IDX_FILES.items():
        content = idx_bytes(idx_arrays[key])
        (tmp_path / (name + suffix)).write_bytes(gzip.compress(content) if suffix else content)
    arrays = formats.read_idx_folder(tmp_path)
    np.testing.assert_array_equal(arrays["train_images"][..., 0], idx_arrays["train_images"])
    np.testing.assert_array_equal(arrays["test_labels"], idx_arrays["test_labels"])
    assert arrays["test_images"].shape == (3, 28, 28, 1)


def test_a_folder_without_all_four_is_none(tmp_path):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"")
    assert formats.read_idx_folder(tmp_path) is None
    assert formats.read_cifar10_folder(tmp_path) is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"hello world", "not an IDX file"),
        (b"", "not an IDX file"),
        (idx_bytes(np.zeros((4, 4)))[:-1], "holds 15 bytes of data; its header says"),
    ],
)
def test_a_damaged_idx_file_is_named(content, message, tmp_path):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError, match=f"file .*{message}|file {message}"):
        formats.read_idx(tmp_path / "file")
    (tmp_path / "file.gz").write_bytes(gzip.compress(content)[:-6])
    with pytest.raises(ValueError, match="file.gz"):
        formats.read_idx(tmp_path / "file.gz")


def test_cifar10_is_the_same_from_every_container(tmp_path):
    rng = np.random.default_rng(0)
    names = [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]
    images = {name: rng.integers(0, 256, (7, 32, 32, 3), np.uint8) for name in names}
    labels = {name: rng.integers(0, 10, 7, np.uint8) for name in names}
    folders = {kind: tmp_path / kind for kind in ("bin", "tar", "png")}
    for folder in folders.values():
        folder.mkdir()
    with tarfile.open(folders["tar"] / "cifar-10-binary.tar.gz", "w:gz") as archive:
        for name in names:
            planes = images[name].transpose(0, 3, 1, 2).reshape(7, -1)
            content = np.concatenate([labels[name][:, None], planes], axis=1).tobytes()
            (folders["bin"] / f"{name}.bin").write_bytes(content)
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
            Image.fromarray(images[name].reshape(7, 1024, 3)).save(folders["png"] / f"{name}.png")
    of = lambda table, chosen: np.concatenate([table[name] for name in chosen])  # noqa: E731
    for split, chosen in (("train", names[:5]), ("test", names[5:])):
        file = folders["png"] / f"{split}_lables.json"
        file.write_text(json.dumps(of(labels, chosen).tolist()))
    for folder in folders.values():
        arrays = formats.read_cifar10_folder(folder)
        np.testing.assert_array_equal(arrays["train_images"], of(images, names[:5]))
        np.testing.assert_array_equal(arrays["train_labels"], of(labels, names[:5]))
        np.testing.assert_array_equal(arrays["test_images"], images["test_batch"])
        np.testing.assert_array_equal(arrays["test_labels"], labels["test_batch"])
