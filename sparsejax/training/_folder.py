"""The folder of a run: it belongs to one configuration."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparsejax.training._checkpoints import write_json
from sparsejax.training._processes import broadcast_from_main


def init_run_dir(folder: str | os.PathLike[str], config: Mapping[str, Any], resume: bool) -> Path:
    """Make a folder the run folder of a configuration, or check that it is.

    Of several processes the main one does this for all.

    Args:
      folder: the folder, which is made if missing.
      config: what defines the run, as JSON values; kept in ``config.json``.
      resume: whether a run that is already there is to be continued.

    Returns:
      The path of the folder.

    Raises:
      ValueError: the folder belongs to another configuration (the message names what differs), or
        holds a run of this one while ``resume`` is false, or is not a folder.
    """
    path = Path(folder)

    def claim() -> int:
        _claim(path, config, resume)
        return 0

    broadcast_from_main(claim)
    return path


def _claim(path: Path, config: Mapping[str, Any], resume: bool) -> None:
    if path.exists() and not path.is_dir():
        raise ValueError(f"folder must be a folder; {path} is a file")
    path.mkdir(parents=True, exist_ok=True)
    file = path / "config.json"
    wanted = json.loads(json.dumps(dict(config)))
    if not file.exists():
        if any(path.glob("checkpoints/states/*")):
            raise ValueError(f"folder {path} holds checkpoints of an unknown configuration")
        write_json(file, wanted)
        return
    held = json.loads(file.read_text())
    if held != wanted:
        odd = sorted(k for k in held.keys() | wanted.keys() if held.get(k) != wanted.get(k))
        named = "; ".join(f"{k}: {held.get(k)!r} there, {wanted.get(k)!r} here" for k in odd)
        raise ValueError(
            f"folder {path} belongs to another configuration ({named}); choose another"
        )
    if not resume and any(path.glob("checkpoints/states/*")):
        raise ValueError(
            f"folder {path} already holds a run of this configuration; resume it (--resume) or "
            "choose another folder"
        )
