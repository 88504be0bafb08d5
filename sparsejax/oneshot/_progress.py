"""Reports of the kernels that are pruned."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

OnLayer: TypeAlias = Callable[[str, float], None]


class Progress:
    """Counts the kernels that are done, and tells whoever wants to know."""

    def __init__(self, total: int, on_layer: OnLayer | None, printed: bool):
        if on_layer is not None and not callable(on_layer):
            raise TypeError(f"on_layer must be None or a function (name, error); got {on_layer!r}")
        self._total, self._on_layer, self._printed, self.done = total, on_layer, printed, 0

    @property
    def wanted(self) -> bool:
        """Whether anybody wants to know; to read an error waits for it."""
        return self._printed or self._on_layer is not None

    def __call__(self, name: str, error: float) -> None:
        """Report that a kernel is pruned, with its relative error."""
        self.done += 1
        if self._on_layer is not None:
            self._on_layer(name, error)
        if self._printed:
            print(f"{self.done}/{self._total} {name}: error {error:.4g}", flush=True)
