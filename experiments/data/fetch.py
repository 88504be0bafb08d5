"""The chain of sources: the first route that gives the right arrays wins."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from experiments.data.routes import RouteError
from experiments.data.specs import SPECS, Arrays, DataError, Spec


def fetch(spec: Spec, folder: Path) -> Arrays:
    """The arrays of a dataset: from the user's files in ``folder``, or from a remote route.

    What a remote route brings lives in a scratch folder that goes away; nothing wrong is kept.

    Raises:
      DataError: the user's files are not the dataset, or no route led to it.
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
        f"{spec.title} could not be had. Tried:\n{listed}\n"
        f"Put {spec.files} into {folder / spec.name}, or name a folder that has them there with "
        "--data-dir, and run again."
    )


def _is_another(spec: Spec, arrays: Arrays) -> bool:
    """Whether the files are a sister dataset that uses the same file names."""
    for other in SPECS.values():
        if other.name != spec.name and other.parse is spec.parse:
            try:
                other.check(arrays, "")
            except DataError:
                continue
            return True
    return False
