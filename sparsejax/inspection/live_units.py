"""Which units still carry anything from input to output."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np

from sparsejax._where import PyTree, path_name


def live_units(params: PyTree, layers: Sequence[str]) -> list[int]:
    """Units left in each layer after dead ones are removed to a fixed point. Runs on the host.

    A unit is dead when no live unit reads it, or when it reads no live unit: then its output is a
    constant (its bias through the activation), which the biases of the layer above can absorb, so
    it leaves too unless that layer has no bias to absorb it and the constant may not be zero. Each
    removal takes the unit's weights along, which may kill others; so it repeats until none dies.
    Output units always stay.

    Args:
      params: pytree with a dict-like node for each layer that holds a ``kernel``, input axis
        second to last and output axis last (dense [in, out], convolution [..., in, out]), and
        perhaps a ``bias`` [out]. A dense layer after a flattening one may read several inputs from
        each unit (channels last).
      layers: the path of each layer's node from input to output, parts joined by ``/``.

    Returns:
      ``len(layers) + 1`` counts: live inputs, then live units of each layer.

    Raises:
      ValueError: a layer is not in ``params``, or does not fit the one before it.
    """
    return [int(mask.sum()) for mask in live_unit_masks(params, layers)]


def live_unit_masks(params: PyTree, layers: Sequence[str]) -> list[np.ndarray]:
    """The masks that `live_units` counts: booleans for the inputs, then for each layer's units."""
    if not layers:
        raise ValueError("layers must name at least one layer; got none")
    leaves = leaves_by_name(params)
    biases = [leaves.get(f"{layer}/bias") for layer in layers]
    links: list[np.ndarray] = []
    for layer, kernel in zip(layers, layer_kernels(params, layers), strict=True):
        link = (kernel != 0).any(axis=tuple(range(kernel.ndim - 2)))
        if links:
            units = links[-1].shape[1]
            if link.shape[0] % units:
                raise ValueError(
                    f"layers names {layer!r}, which reads {link.shape[0]} inputs; the layer before "
                    f"it has {units} units"
                )
            link = link.reshape(-1, units, link.shape[1]).any(axis=0)
        links.append(link)
    live = [np.ones(links[0].shape[0], bool)] + [np.ones(link.shape[1], bool) for link in links]
    while True:
        old = [mask.copy() for mask in live]
        for below, link in enumerate(links):
            carrying = link & live[below][:, None] & live[below + 1][None, :]
            live[below] &= carrying.any(axis=1)
            if below + 1 < len(links):
                bias = biases[below]
                constant = np.zeros(link.shape[1], bool) if bias is None else bias != 0
                absorbed = biases[below + 1] is not None
                live[below + 1] &= carrying.any(axis=0) | (constant & (not absorbed))
        if all((was == now).all() for was, now in zip(old, live, strict=True)):
            return live


def layer_kernels(params: PyTree, layers: Sequence[str]) -> list[np.ndarray]:
    """The kernels of the layers from input to output; raises as `live_units` does."""
    leaves = leaves_by_name(params)
    for layer in layers:
        if f"{layer}/kernel" not in leaves:
            raise ValueError(f"layers names {layer!r}; params hold no {layer}/kernel")
    return [leaves[f"{layer}/kernel"] for layer in layers]


def leaves_by_name(params: PyTree) -> dict[str, np.ndarray]:
    """Leaves by path, parts joined by ``/``."""
    flat, _ = jax.tree_util.tree_flatten_with_path(params)
    return {path_name(path): np.asarray(leaf) for path, leaf in flat}
