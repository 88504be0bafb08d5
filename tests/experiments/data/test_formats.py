import gzip
import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from experiments.data import formats
from tests.experiments.data.tiny import ARRAYS, idx_bytes, write_idx


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_reads_idx_plain_and_gzipped(suffix, tmp_path):
    write_idx(tmp_path, ARRAYS, suffix)
    found = formats.read_idx_folder(tmp_path)
    for key, expected in ARRAYS.items():
        np.testing.assert_array_equal(found[key], expected)


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
