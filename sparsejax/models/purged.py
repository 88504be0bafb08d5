"""The smaller dense networks that are left of gated or pruned ones."""

from __future__ import annotations

from typing import Literal

import jax.numpy as jnp
from flax import nnx

from sparsejax._where import PyTree
from sparsejax.inspection import Purged, purge
from sparsejax.models.lenet5 import LENET5_LAYERS, LeNet5
from sparsejax.models.lenet300 import LENET300_LAYERS, LeNet300, activation_of


def purged_lenet300(params: PyTree, activation: Literal["relu", "tanh"] = "relu") -> LeNet300:
    """The `LeNet300` that is left when dead units and pixels are taken out.

    It takes the whole images, reads the pixels that stayed (``kept_inputs``), and its outputs are
    those of ``params`` within rounding.

    Args:
      params: of a `LeNet300`, gates multiplied in (``sparsejax.gates.apply``). Runs on the host.
      activation: the network's.

    Raises:
      ValueError: ``params`` are not those of a `LeNet300`, or nothing of them is left.
    """
    small = purge(params, LENET300_LAYERS, activation_of(activation))
    pixels, *units, _ = small.units
    sizes = _something([len(kept) for kept in units])
    return _filled(LeNet300(activation, sizes, pixels.tolist(), rngs=nnx.Rngs(0)), small)


def purged_lenet5(params: PyTree) -> LeNet5:
    """The `LeNet5` that is left when dead channels, units and single inputs are taken out.

    Of the flattened map the first dense layer reads only the inputs that stayed (``kept_inputs``);
    the outputs are those of ``params`` within rounding.

    Args:
      params: of a `LeNet5`, gates multiplied in (``sparsejax.gates.apply``). Runs on the host.

    Raises:
      ValueError: ``params`` are not those of a `LeNet5`; nothing of them is left; or a channel of
        constant output other than 0 cannot be taken out (see ``sparsejax.inspection.purge``).
    """
    small = purge(params, LENET5_LAYERS, single_inputs=True)
    _, *units, _ = small.units
    sizes = _something([len(kept) for kept in units])
    kept = small.single_inputs["dense1"].tolist()
    return _filled(LeNet5(sizes, kept, rngs=nnx.Rngs(0)), small)


def _something(sizes: list[int]) -> list[int]:
    if not all(sizes):
        raise ValueError(f"params leave no path from input to output; live units {sizes}")
    return sizes


def _filled(model, small: Purged):
    for layer, arrays in small.layers.items():
        for name, array in arrays.items():
            setattr(getattr(model, layer), name, nnx.Param(jnp.asarray(array)))
    return model
