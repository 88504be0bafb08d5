"""The C step of each row of the table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from sparsejax.compression import (
    Compression,
    additive,
    binary,
    l0_ball,
    low_rank,
    partition,
    quantize,
    rank_selection,
    ternary,
)

_LAYERS = ("dense1", "dense2", "dense3")


def _layer(path: Any) -> str | None:
    """The layer whose kernel lies at ``path``; None for a bias."""
    name = jax.tree_util.keystr(path)
    return next((layer for layer in _LAYERS if layer in name and "kernel" in name), None)


def _pruned_low_rank_quantised() -> Compression:
    steps = {"dense1": l0_ball(5_000), "dense2": low_rank(10), "dense3": quantize(2, exact=False)}
    return partition(steps, lambda path, leaf: _layer(path))


C_STEPS: dict[str, Callable[[], Compression]] = {
    "quantize_all": lambda: quantize(2, per_leaf=True, exact=False),
    "quantize_first_third": lambda: quantize(2, per_leaf=True, exact=False),
    "prune_5pct": lambda: l0_ball(13_310),
    "quantize_plus_1pct": lambda: additive([l0_ball(2_662), quantize(2, exact=False)]),
    "prune_lowrank_quantize": _pruned_low_rank_quantised,
    "rank_selection": lambda: rank_selection(1e-6),
    "ternary_all": lambda: ternary(scaled=True, per_leaf=True),
    "binary_all": lambda: binary(scaled=True, per_leaf=True),
}


def where(row: str) -> Callable[[Any, Any], bool]:
    """The kernels that a row compresses."""
    layers = ("dense1", "dense3") if row == "quantize_first_third" else _LAYERS
    return lambda path, leaf: _layer(path) in layers
