"""SmolLM2 without hidden units and groups of heads: fewer weights in every product, dense ones."""

from __future__ import annotations

import time
from typing import Any

import jax
import jax.numpy as jnp

from experiments.oneshot.language import Language
from sparsejax import oneshot
from sparsejax.deploy import Network, Shrunk, expand, shrink
from sparsejax.oneshot import Calibration

UNITS = 1 / 4
"""The share of the hidden units that leave each feed-forward block."""


def pruned(language: Language, calibration: Calibration, method: Any) -> tuple[Any, float]:
    """Return the parameters, with zeros where units were, and the seconds that it took.

    A quarter of the inputs of each ``down`` kernel and one group of heads of each ``output`` kernel
    are pruned; the rest of the units, that is columns of ``gate`` and ``up``, and of ``query``,
    ``key`` and ``value``, is found by `shrink`.
    """
    start = time.perf_counter()
    params = language.params
    parts = (
        ("down", UNITS, "inputs"),
        ("output", 1 / language.groups, f"inputs/{language.group_width}"),
    )
    for name, share, pattern in parts:
        chosen = lambda path, leaf, name=name: name in jax.tree_util.keystr(path)  # noqa: E731
        params = oneshot.prune(params, calibration, share, method, pattern, where=chosen)
    whole = expand(smaller(language, params)).params
    return jax.tree.map(jnp.asarray, whole), time.perf_counter() - start


def smaller(language: Language, params: Any) -> Shrunk:
    """Return the network without what is zero in its parameters."""
    tokens = jax.ShapeDtypeStruct((1, language.sizes["context"]), jnp.int32)
    return shrink(Network(language.function, params), tokens)
