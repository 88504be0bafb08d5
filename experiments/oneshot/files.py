"""The pruned language model in a file of few-bit codes, and the network that is read back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.oneshot.language import in_layers
from sparsejax import compression
from sparsejax.deploy import load_sparse, save_sparse

SETTINGS: Mapping[str, int] = {
    "values": 63,
    "group_size": 192,
    "embedding_values": 63,
    "embedding_group_size": 32,
}
"""Weights take so many evenly spaced values, from minus to plus the scale of the group of inputs
that they are in; pruned ones stay zero, which is one of the values. Values near zero matter: masks
that follow the inputs keep small weights of large inputs. The groups of the embedding lie along its
width."""


def forms(params: Any, settings: Mapping[str, int] = SETTINGS) -> Any:
    """The parameters with kernels and embedding quantised, in forms; the others as they are."""
    c_step = compression.partition(
        {
            "layers": compression.quantize(
                _grid(settings["values"]), group_size=settings["group_size"]
            ),
            "embedding": compression.quantize(
                _grid(settings["embedding_values"]),
                group_size=settings["embedding_group_size"],
                axis=-1,
            ),
        },
        _kind,
    )
    chosen = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf if _kind(path, leaf) else optax.MaskedNode(), params
    )
    theta, state = c_step.project(chosen, 1.0, c_step.init(chosen))
    assert c_step.encode is not None
    return jax.tree.map(
        lambda leaf, form: leaf if isinstance(form, optax.MaskedNode) else form,
        params,
        c_step.encode(theta, state),
    )


def written(path: Path, params: Any, settings: Mapping[str, int] = SETTINGS) -> tuple[int, Any]:
    """Write the quantised parameters; return the bytes of the file and what is read from it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    size = save_sparse(path, forms(params, settings))
    found = compression.decode(load_sparse(path, like=params))
    return size, jax.tree.map(jnp.asarray, found)


def _grid(values: int) -> np.ndarray:
    most = values // 2
    return np.arange(-most, most + 1.0)


def _kind(path: Any, leaf: Any) -> str | None:
    if in_layers(path, leaf):
        return "layers"
    return "embedding" if leaf.ndim == 2 else None
