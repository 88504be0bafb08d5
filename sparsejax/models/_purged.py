"""Smaller dense networks, made from gated or pruned ones by removing dead units."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, PyTree

from sparsejax._names import leaves_by_name
from sparsejax.deploy import Network, Shrunk, shrink
from sparsejax.inspection import live_units
from sparsejax.models._lenet5 import LENET5_LAYERS, LeNet5
from sparsejax.models._lenet300 import LENET300_LAYERS, LeNet300, activation_of

Model = TypeVar("Model")

_IMAGES = jax.ShapeDtypeStruct((1, 784), jnp.float32)


def purged_lenet300(
    params: PyTree[Array], activation: Literal["relu", "tanh"] = "relu"
) -> LeNet300:
    """Remove the dead units and pixels of a `LeNet300` on the host; return the smaller one.

    It takes whole images and reads the pixels that are left (``kept_inputs``). Its outputs equal
    those of ``params`` within rounding.

    Args:
      params: parameters of a `LeNet300`, with gates multiplied in (`sparsejax.gates.apply`).
      activation: the activation of that network.

    Returns:
      A `LeNet300`.

    Raises:
      ValueError: ``params`` are not those of a `LeNet300`, or no path from input to output is left.
    """
    activation_of(activation)
    model = functools.partial(LeNet300, activation)
    small = _shrunk(model, LENET300_LAYERS, params)
    return _with(small.params, model, LENET300_LAYERS, _stayed(small, params, "dense1/kernel", 0))


def purged_lenet5(params: PyTree[Array]) -> LeNet5:
    """Remove the dead channels, units and inputs of a `LeNet5` on the host; return the smaller one.

    The first dense layer reads only the inputs of the flattened map that are left
    (``kept_inputs``). The outputs equal those of ``params`` within rounding.

    Args:
      params: parameters of a `LeNet5`, with gates multiplied in (`sparsejax.gates.apply`).

    Returns:
      A `LeNet5`.

    Raises:
      ValueError: ``params`` are not those of a `LeNet5`, or no path from input to output is left.
    """
    small = _shrunk(LeNet5, LENET5_LAYERS, params)
    channels = _stayed(small, params, "conv2/kernel", 3)
    inputs = _stayed(small, params, "dense1/kernel", 0)
    # Renumbered among the remaining channels, which are the last axis of the flattened map.
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
    model: Callable[..., Model],
    layers: Sequence[str],
    kept_inputs: np.ndarray | None = None,
) -> Model:
    """The model with these parameters and with as many units as their kernels have."""
    leaves = leaves_by_name(params)
    units = [leaves[f"{layer}/kernel"].shape[-1] for layer in layers[:-1]]
    kept = None if kept_inputs is None else kept_inputs.tolist()
    whole = nnx.eval_shape(lambda: model(units=units, kept_inputs=kept, rngs=nnx.Rngs(0)))
    merged: Model = nnx.merge(nnx.split(whole)[0], jax.tree.map(jnp.asarray, params))
    return merged
