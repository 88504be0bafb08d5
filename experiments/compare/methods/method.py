"""The interface of a method in the comparison."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from experiments.compare.trainer import Trainer


class Method(NamedTuple):
    """A way to come from initial weights to at most ``trainer.kept`` weights."""

    title: str
    search: Callable[[Trainer, int], Any]
    """``(trainer, epochs) -> params``: train for that many epochs. Where more weights are left than
    the budget has, the largest stay."""
    candidates: Sequence[Mapping[str, Any]]
    """Settings to choose from on the validation images: four for every method. They are those for
    LeNet300 (see `experiments.compare.config.Task.replaced`)."""
    search_share: float = 1.0
    """Share of all epochs that the search has; what it left is then fine-tuned for the rest."""
    shared: Mapping[str, Any] = {}
    """Settings of every candidate."""
    always_sparse: bool = False
    """Whether it never has more weights than the budget, from the first step on."""


def grid(**values: Sequence[Any]) -> list[dict[str, Any]]:
    """Every combination of the values."""
    return [
        dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())
    ]
