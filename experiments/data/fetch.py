"""The sources of a dataset: the first route that gives the right arrays is used."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from experiments.data.routes import Route, RouteError
from experiments.data.specs import SPECS, Arrays, DataError, Spec

_Found = TypeVar("_Found")


def fetch(spec: Spec, folder: Path) -> Arrays:
    """Return a dataset's arrays from the user's files in ``folder``, or else from a remote route.

    Raises:
      DataError: the user's files are not the dataset, or every route failed.
    """
    for place in (folder / spec.name, folder):
        try:
            arrays = spec.parse(place)
        except (ValueError, KeyError, OSError) as error:
            raise DataError(f"{spec.title}: the files in {place} are damaged: {error}") from error
        if arrays is not None and not (place == folder and _is_another(spec, arrays)):
            return spec.check(arrays, str(place))
    tried = [f"your files: {spec.files} are not in {folder / spec.name}"]

    def take(found: Path, route: Route) -> Arrays:
        arrays = spec.parse(found)
        if arrays is None:
            raise RouteError("the expected files are not in it")
        return spec.check(arrays, str(route))

    fetched = by_a_route(spec.remote, folder, spec.name, take, tried)
    if fetched is not None:
        return fetched
    raise not_available(
        spec.title,
        tried,
        f"Put {spec.files} into {folder / spec.name}, or name the folder that holds them with "
        "--data-dir, and run again.",
    )


def by_a_route(
    routes: Sequence[Route],
    folder: Path,
    name: str,
    take: Callable[[Path, Route], _Found],
    tried: list[str],
) -> _Found | None:
    """Return what the first route gives that does not fail.

    Args:
      routes: the routes, which download into scratch folders that are deleted afterwards.
      folder: the folder of these folders.
      name: how their names begin.
      take: makes the result of the downloaded files, or fails if they are not the right ones.
      tried: receives a line for each route that fails.

    Returns:
      The result; None if every route failed.
    """
    for route in routes:
        scratch = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=folder))
        try:
            return take(route.fetch(scratch), route)
        except (RouteError, DataError, ValueError, KeyError, OSError) as error:
            tried.append(f"{route}: {error}")
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return None


def not_available(title: str, tried: Sequence[str], advice: str) -> DataError:
    """Return the error that lists what was tried."""
    listed = "\n".join(f"  - {line}" for line in tried)
    return DataError(f"{title} is not available. Tried:\n{listed}\n{advice}")


def _is_another(spec: Spec, arrays: Arrays) -> bool:
    """Whether the files are those of another dataset that uses the same file names."""
    for other in SPECS.values():
        if other.name != spec.name and other.parse is spec.parse:
            try:
                other.check(arrays, "")
            except DataError:
                continue
            return True
    return False
