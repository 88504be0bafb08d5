"""The smaller dense network that is left when dead units are taken out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax._where import PyTree
from sparsejax.inspection.live_units import leaves_by_name, live_unit_masks

Activation = Callable[[jax.Array], jax.Array]


class Purged(NamedTuple):
    """What `purge` leaves."""

    layers: dict[str, dict[str, np.ndarray]]
    """For each layer its smaller ``kernel`` and, where it has one, its ``bias``."""
    units: list[np.ndarray]
    """Indices of the units that stayed: of the inputs, then of each layer."""
    single_inputs: dict[str, np.ndarray]
    """Of each layer behind a flattening whose single inputs were purged: the indices of those that
    stayed, counted in the flattened output of the *smaller* layer below; row i of its kernel reads
    the i-th of them."""


def purge(
    params: PyTree,
    layers: Sequence[str],
    activation: Activation = jax.nn.relu,
    single_inputs: bool = False,
) -> Purged:
    r"""Take out every dead unit with all that feeds only it. Runs on the host.

    Dead units are those of `live_units`. One that nothing live reads leaves no trace; one that
    reads nothing live puts out a constant :math:`c = \phi(b + \sum_i c_i w_i)`, which goes into the
    biases of the layer above, :math:`b' \leftarrow b' + \sum c\,w'`. So the smaller network
    computes what the whole one does, within rounding.

    The layers form a chain: the activation follows each but the last, and between them at most
    pooling (of which a constant stays a constant) and a flattening, channels last. The inputs that
    stayed are ``units[0]``: give the smaller network those alone.

    Args:
      params: as for `live_units`: gates already multiplied in (``sparsejax.gates.apply``).
      layers: the path of each layer's node from input to output.
      activation: phi, elementwise.
      single_inputs: whether a layer behind a flattening loses its single inputs too, which no live
        unit of it reads, though their channel stays (as gates per input unit leave it). The smaller
        network then has to choose them (see ``Purged.single_inputs``).

    Raises:
      ValueError: as `live_units`; or a constant would have to be absorbed by a convolution, which
        may pad its input with zeros, so that the constant is none at the border.
    """
    leaves = leaves_by_name(params)
    live = live_unit_masks(params, layers)
    kept = [np.flatnonzero(mask) for mask in live]
    constants = np.zeros(len(live[0]))
    purged, chosen = {}, {}
    for number, layer in enumerate(layers):
        kernel, bias = leaves[f"{layer}/kernel"], leaves.get(f"{layer}/bias")
        below, here = live[number], live[number + 1]
        repeats = kernel.shape[-2] // len(below)  # a flattening: channels are the fastest
        stays = np.tile(below, repeats)
        absorbed = np.tile(constants, repeats) * ~stays
        window = tuple(range(kernel.ndim - 2))
        moved = absorbed @ kernel.astype(np.float64).sum(axis=window)
        touched = (kernel[..., absorbed != 0, :][..., here] != 0).any()
        if kernel.ndim > 2 and touched:
            raise ValueError(
                f"layers names the convolution {layer!r}, which reads units of constant output "
                "other than 0; it cannot absorb them exactly where it pads"
            )
        base = np.zeros(len(here)) if bias is None else bias.astype(np.float64)
        smaller = kernel[..., stays, :][..., here]
        if single_inputs and repeats > 1:
            chosen[layer] = np.flatnonzero((smaller != 0).any(axis=1))
            smaller = smaller[chosen[layer]]
        found = {"kernel": smaller}
        if bias is not None:
            found["bias"] = (base + moved)[here].astype(bias.dtype)
        purged[layer] = found
        # Of units that read nothing live; for the others this is no output of theirs.
        constants = np.asarray(activation(jnp.asarray(base + moved, jnp.float32)), np.float64)
    return Purged(purged, kept, chosen)
