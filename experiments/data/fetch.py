"""The sources of a dataset: the first route that gives the right arrays is used."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from experiments.data.routes import RouteError
from experiments.data.specs import SPECS, Arrays, DataError, Spec


def fetch(spec: Spec, folder: Path) -> Arrays:
    """Return a dataset's arrays from the user's files in ``folder``, or else from a remote route.

    A remote route downloads into a scratch folder that is deleted afterwards.

    Raises:
      DataError: the user's files are not the dataset, or every route failed.
    """
    tried = []
    for place in (folder / spec.name, folder):
        try:
            arrays = spec.parse(place)
        except (ValueError, KeyError, OSError) as error:
            raise DataError(f"{spec.title}: the files in {place} are damaged: {error}") from error
        if arrays is not None and not (place == folder and _is_another(spec, arrays)):
            return spec.check(arrays, str(place))
    tried.append(f"your files: {spec.files} are not in {folder / spec.name}")
    for route in spec.remote:
        scratch = Path(tempfile.mkdtemp(prefix=f"{spec.name}-", dir=folder))
        try:
            arrays = spec.parse(route.fetch(scratch))
            if arrays is None:
                raise RouteError("the expected files are not in it")
            return spec.check(arrays, str(route))
        except (RouteError, DataError, ValueError, KeyError, OSError) as error:
            tried.append(f"{route}: {error}")
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    listed = "\n".join(f"  - {line}" for line in tried)
    raise DataError(
        f"{spec.title} is not available. Tried:\n{listed}\n"
        f"Put {spec.files} into {folder / spec.name}, or name the folder that holds them with "
        "--data-dir, and run again."
    )


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
