"""The way back from a purged network to the shapes it came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from sparsejax._where import PyTree, path_name
from sparsejax.inspection.live_units import leaves_by_name
from sparsejax.inspection.purge import Purged


def expand(
    smaller: Mapping[str, Mapping[str, jax.Array]],
    purged: Purged,
    params: PyTree,
    layers: Sequence[str],
) -> PyTree:
    """Parameters of the original shapes that compute what a purged network computes.

    A network pruned for good can be trained on at the size of what is left of it, and end in the
    shapes that its checkpoints, its masks and its published figures have: what was taken out is
    zero. Runs on the host.

    Args:
      smaller: for each layer its ``kernel`` and, where it has one, its ``bias``, in the shapes of
        ``purged.layers``.
      purged: what `purge` left of the original network.
      params: that network's parameters; shapes and dtypes count alone.
      layers: as they were given to `purge`; every array in ``params`` belongs to one of them.

    Returns:
      A tree like ``params``.

    Raises:
      ValueError: the arrays of a layer do not fit ``purged`` and ``params``.
    """
    shapes: dict[str, tuple[int, ...]] = {
        name: leaf.shape for name, leaf in leaves_by_name(params).items()
    }
    found: dict[str, np.ndarray] = {}
    units = shapes[f"{layers[0]}/kernel"][-2]
    for number, layer in enumerate(layers):
        below, here = purged.units[number], purged.units[number + 1]
        for name, array in smaller[layer].items():
            small, whole = np.asarray(array), np.zeros(shapes[f"{layer}/{name}"])
            chosen: Any = (here,)
            if whole.ndim > 1:
                # Behind a flattening an input is (position, unit), units the fastest.
                positions = whole.shape[-2] // units
                inputs = (np.arange(positions)[:, None] * units + below).ravel()
                chosen = (inputs[purged.single_inputs.get(layer, slice(None))], here)
            window = whole.shape[: whole.ndim - len(chosen)]
            expected = (*window, *map(len, chosen))
            if small.shape != expected:
                raise ValueError(
                    f"smaller must have the shapes of purged.layers; {layer}/{name} has shape "
                    f"{small.shape} in place of {expected}"
                )
            place: Any = (..., *np.ix_(*chosen))
            whole[place] = small
            found[f"{layer}/{name}"] = whole
        units = shapes[f"{layer}/kernel"][-1]
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: found[path_name(path)].astype(leaf.dtype), params
    )
