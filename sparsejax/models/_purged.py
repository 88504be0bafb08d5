"""The smaller dense networks that are left of gated or pruned ones."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from sparsejax._names import leaves_by_name
from sparsejax._where import PyTree
from sparsejax.deploy import Network, Shrunk, shrink
from sparsejax.inspection import live_units
from sparsejax.models._lenet5 import LENET5_LAYERS, LeNet5
from sparsejax.models._lenet300 import LENET300_LAYERS, LeNet300, activation_of

_IMAGES = jax.ShapeDtypeStruct((1, 784), jnp.float32)


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
    activation_of(activation)
    model = functools.partial(LeNet300, activation)
    small = _shrunk(model, LENET300_LAYERS, params)
    return _with(small.params, model, LENET300_LAYERS, _stayed(small, params, "dense1/kernel", 0))


def purged_lenet5(params: PyTree) -> LeNet5:
    """The `LeNet5` that is left when dead channels, units and single inputs are taken out.

    Of the flattened map the first dense layer reads only the inputs that stayed (``kept_inputs``);
    the outputs are those of ``params`` within rounding.

    Args:
      params: of a `LeNet5`, gates multiplied in (``sparsejax.gates.apply``). Runs on the host.

    Raises:
      ValueError: ``params`` are not those of a `LeNet5`, or nothing of them is left.
    """
    small = _shrunk(LeNet5, LENET5_LAYERS, params)
    channels = _stayed(small, params, "conv2/kernel", 3)
    inputs = _stayed(small, params, "dense1/kernel", 0)
    # Counted among the channels that stayed; channels are the fastest.
    position, channel = np.divmod(inputs, leaves_by_name(params)["conv2/kernel"].shape[3])
    inputs = position * len(channels) + np.searchsorted(channels, channel)
    return _with(small.params, LeNet5, LENET5_LAYERS, inputs)


def _shrunk(model: Callable[..., Any], layers: Sequence[str], params: PyTree) -> Shrunk:
    live = live_units(params, layers)
    if not all(live):
        raise ValueError(f"params leave no path from input to output; live units {live}")
    return shrink(Network(lambda params, x: _with(params, model, layers)(x), params), _IMAGES)


def _stayed(small: Shrunk, params: PyTree, name: str, axis: int) -> np.ndarray:
    places = small.kept[name][axis]
    return np.arange(leaves_by_name(params)[name].shape[axis]) if places is None else places


def _with(
    params: PyTree,
    model: Callable[..., Any],
    layers: Sequence[str],
    kept_inputs: np.ndarray | None = None,
) -> Any:
    """The model that has these parameters, and as many units as their kernels."""
    leaves = leaves_by_name(params)
    units = [leaves[f"{layer}/kernel"].shape[-1] for layer in layers[:-1]]
    kept = None if kept_inputs is None else kept_inputs.tolist()
    whole = nnx.eval_shape(lambda: model(units=units, kept_inputs=kept, rngs=nnx.Rngs(0)))
    return nnx.merge(nnx.split(whole)[0], jax.tree.map(jnp.asarray, params))
