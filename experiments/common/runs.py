"""What the runs of the experiments share: a folder each, and what lies there at the end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from experiments.data import Split

_CHUNK = 5000  # images a forward pass


class FolderRun:
    """A network trained with one list of settings and one seed, in its own folder.

    ``result.json`` and ``network.npz`` there mean that it has ended.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], seed: int, resume: bool):
        self.folder, self.seed, self.resumes = folder, seed, resume
        self.settings = settings | {"seed": seed}

    @property
    def title(self) -> str:
        """For the screen."""
        return f"{self.settings['row']} seed {self.seed}"

    def done(self) -> bool:
        """Whether it has ended, with these settings."""
        files = [self.folder / name for name in ("result.json", "network.npz")]
        return all(file.exists() for file in files) and self.result()["settings"] == self.settings

    def result(self) -> dict[str, Any]:
        """What it ended with."""
        return json.loads((self.folder / "result.json").read_text())

    def train(self) -> dict[str, Any]:
        """Run to the end and return the result."""
        raise NotImplementedError

    def ensure(self) -> tuple[dict[str, Any], str]:
        """The result, trained for unless it is there and may be resumed; and how it came about."""
        if self.resumes and self.done():
            return self.result(), "already there"
        result = self.train()
        return result, f"{result['seconds']:.0f} s"


def error(mistakes: Callable[[Any, Any, Any], Any], params: Any, split: Split) -> float:
    """Misclassified images of a split in per cent, ``mistakes`` counting those of a piece."""
    return float(errors(mistakes, params, split))


def errors(mistakes: Callable[[Any, Any, Any], Any], params: Any, split: Split) -> np.ndarray:
    """The same of several networks at once, where ``mistakes`` counts those of each."""
    wrong: Any = 0
    for start in range(0, len(split.labels), _CHUNK):
        end = start + _CHUNK
        wrong += np.asarray(mistakes(params, split.images[start:end], split.labels[start:end]))
    return 100 * wrong / len(split.labels)
