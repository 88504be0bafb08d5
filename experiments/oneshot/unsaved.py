"""Runs whose networks are not saved, since pruning them again takes minutes at most."""

from __future__ import annotations

from typing import Any

from experiments.common.runner import Run


class UnsavedRun(Run):
    """A run that ends in its result; the number of the test split is in it where it is final.

    Args:
      *args: those of `experiments.common.runner.Run`.
      final: whether the test split is evaluated.
    """

    final_field: str
    """The field of a result that the test split gives."""

    def __init__(self, *args: Any, final: bool):
        super().__init__(*args)
        self.final = final

    def done(self) -> bool:
        """Whether it has ended with these settings, and with the test split where asked for."""
        file = self.folder / "result.json"
        if not file.exists() or self.result()["settings"] != self.settings:
            return False
        return not self.final or self.final_field in self.result()
