"""The methods that are compared; a file each, or one for those that differ in a line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

from experiments.compare.methods import (
    constrained_l0,
    continuous_sparsification,
    gated_decay,
    jaxpruner,
    learning_compression,
    magnitude,
    masked_updates,
    straight_through,
)
from experiments.compare.methods.method import Method

Name = Literal[
    "dense", "lc_l0", "lc_l0_l2", "constrained_l0", "cs", "gated_decay", "imp", "one_shot",
    "magnitude", "saliency", "rigl", "rigl_jaxpruner", "set", "static", "ste", "ac_dc",
]  # fmt: skip

METHODS: Mapping[str, Method] = {
    "dense": magnitude.DENSE,
    "lc_l0": learning_compression.L0,
    "lc_l0_l2": learning_compression.L0_L2,
    "constrained_l0": constrained_l0.METHOD,
    "cs": continuous_sparsification.METHOD,
    "gated_decay": gated_decay.METHOD,
    "imp": magnitude.ITERATIVE,
    "one_shot": magnitude.ONE_SHOT,
    "magnitude": masked_updates.MAGNITUDE,
    "saliency": masked_updates.SALIENCY,
    "rigl": masked_updates.RIGL,
    "rigl_jaxpruner": jaxpruner.RIGL,
    "set": masked_updates.SET,
    "static": masked_updates.STATIC,
    "ste": straight_through.METHOD,
    "ac_dc": masked_updates.AC_DC,
}


PEERS: frozenset[Name] = frozenset({"rigl_jaxpruner"})
"""Methods of other libraries, which need a checkout of them."""


def names() -> tuple[Name, ...]:
    """The names of all methods, in the table's order."""
    return get_args(Name)
