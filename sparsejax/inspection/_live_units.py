"""The units that still carry a signal from input to output."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Bool, PyTree

from sparsejax._forms import decode
from sparsejax._names import leaves_by_name
from sparsejax.graph import (
    find_bias_foldings,
    find_constants,
    find_groups,
    find_live,
    trace,
)


def live_units(params: PyTree[ArrayLike], layers: Sequence[str]) -> list[int]:
    """Count the units left in each layer after dead ones are removed to a fixed point.

    A unit is dead if no live unit reads it, or if it reads no live unit: then its output is a
    constant (its bias through the activation), which the bias of the next layer can absorb. It is
    kept if that layer has no bias and the constant may not be zero. A removed unit takes its
    weights along, which may make others dead, so removal repeats until none is. Output units are
    always kept. This runs on the host.

    The count uses the zeros of a chain of layers, not the operations between them. For any other
    network, the shapes of ``sparsejax.deploy.shrink(...).params`` show what is live.

    Args:
      params: pytree with a dict-like node for each layer that holds a ``kernel``, input axis
        second to last and output axis last (dense [in, out], convolution [..., in, out]), and
        perhaps a ``bias`` [out]. A dense layer behind a convolution may read several inputs from
        each unit, the flattened positions (channels last). Forms of compressed arrays count as
        their arrays.
      layers: the path of each layer's node from input to output, parts joined by ``/``.

    Returns:
      ``len(layers) + 1`` counts: live inputs, then live units of each layer.

    Raises:
      TypeError: ``layers`` is a string.
      ValueError: a layer is not in ``params``, or does not fit the one before it.
    """
    return [int(mask.sum()) for mask in live_unit_masks(params, layers)]


def live_unit_masks(
    params: PyTree[ArrayLike], layers: Sequence[str]
) -> list[Bool[np.ndarray, " units"]]:
    """Return the masks that `live_units` counts: booleans for the inputs, then for each layer.

    Args:
      params: the same as for `live_units`.
      layers: the same as for `live_units`.

    Returns:
      ``len(layers) + 1`` masks.

    Raises:
      TypeError: ``layers`` is a string.
      ValueError: a layer is not in ``params``, or does not fit the one before it.
    """
    if not layers:
        raise ValueError("layers must name at least one layer; got none")
    params = decode(params)
    leaves = leaves_by_name(params)
    links: list[np.ndarray] = []
    biases: list[np.ndarray | None] = []
    dense = True  # whether the layer before has one output for each unit
    for layer, kernel in zip(layers, layer_kernels(params, layers), strict=True):
        link = (kernel != 0).any(axis=tuple(range(kernel.ndim - 2)))
        if links:
            units = links[-1].shape[1]
            if link.shape[0] != units and (dense or kernel.ndim > 2 or link.shape[0] % units):
                raise ValueError(
                    f"layers names {layer!r}, which reads {link.shape[0]} inputs; the layer before "
                    f"it has {units} units"
                )
            link = link.reshape(-1, units, link.shape[1]).any(axis=0)
        dense = kernel.ndim == 2
        bias = leaves.get(f"{layer}/bias")
        links.append(link.astype(np.float32))
        biases.append(None if bias is None else (np.asarray(bias) != 0).astype(np.float32))
    weights = list(zip(links, biases, strict=True))
    graph = trace(_chain, weights, [np.zeros((1, len(links[0])), np.float32)])
    constants = find_constants(graph, jax.tree.leaves(weights))
    groups = find_groups(graph, constants.indices)
    live = find_live(groups, constants, find_bias_foldings(graph, groups), at_least_one=False)
    leaf_of = jax.tree.unflatten(jax.tree.structure(weights), graph.leaves)
    found = [groups.of_values[link] for link, _ in leaf_of]
    return [live[found[0][0]]] + [live[units] for _, units in found]


def _chain(weights: Sequence[tuple[jax.Array, jax.Array | None]], x: jax.Array) -> jax.Array:
    """Compute a network whose weights are ones and zeros, so that constants do not cancel."""
    for link, bias in weights:
        x = x @ link if bias is None else x @ link + bias[None]
        x = jnp.minimum(x, 1)  # deep chains do not overflow
    return x


def layer_kernels(params: PyTree, layers: Sequence[str]) -> list[np.ndarray]:
    """Return the kernels of the layers from input to output; raises as `live_units` does."""
    if isinstance(layers, str):
        raise TypeError(f"layers must be a sequence of names, such as [{layers!r}]; got {layers!r}")
    leaves = leaves_by_name(params)
    for layer in layers:
        if f"{layer}/kernel" not in leaves:
            raise ValueError(f"layers names {layer!r}; params hold no {layer}/kernel")
    return [np.asarray(leaves[f"{layer}/kernel"]) for layer in layers]
