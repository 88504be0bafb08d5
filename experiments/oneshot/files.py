"""The pruned language model in a file of 4-bit codes, and the network that is read back."""

from __future__ import annotations

import functools
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
    "values": 16,
    "group_size": 64,
    "embedding_values": 255,
    "embedding_group_size": 64,
}
"""The weights that are kept take so many values, relative to the scale of the group of inputs that
they are in; pruned ones stay zero. The embedding is dense; its groups lie along the width."""


_EVERY = 10


def forms(params: Any, settings: Mapping[str, int] = SETTINGS) -> Any:
    """The parameters with kernels and embedding quantised, in forms; the others as they are."""
    most = settings["embedding_values"] // 2
    in_groups = functools.partial(
        compression.quantize, zeros=False, group_size=settings["group_size"]
    )
    # Relative to the scales all kernels are alike: some of them say what the values are.
    learned = in_groups(settings["values"], exact=False)
    paths = jax.tree_util.tree_leaves_with_path(params)
    some = [leaf for path, leaf in paths if in_layers(path, leaf)][::_EVERY]
    _, state = learned.project(some, 1.0, learned.init(some))
    c_step = compression.partition(
        {
            "layers": in_groups(state.codebook),
            "embedding": compression.quantize(
                np.arange(-most, most + 1.0), group_size=settings["embedding_group_size"], axis=-1
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


def _kind(path: Any, leaf: Any) -> str | None:
    if in_layers(path, leaf):
        return "layers"
    return "embedding" if leaf.ndim == 2 else None
