"""Parameters with the names and layouts of PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from sparsejax._forms import decode
from sparsejax._names import name_of
from sparsejax._variables import flatten_with_path
from sparsejax._where import PyTree

_NAMES = {
    "kernel": "weight", "scale": "weight", "embedding": "weight", "mean": "running_mean",
    "var": "running_var",
}  # fmt: skip


def torch_state(
    params: PyTree,
    flattened: Mapping[str, tuple[int, int]] | None = None,
    kinds: Mapping[str, str] | str | None = None,
) -> dict[str, np.ndarray]:
    """Return the ``state_dict`` of a PyTorch model whose modules are named like the layers.

    A ``kernel`` becomes a ``weight`` in the layout of a PyTorch layer. A kernel of two dimensions
    belongs to a dense layer. The shape of a kernel of more dimensions does not determine its layer
    (a convolution, a transposed one, attention heads, a stack of layers), so ``kinds`` has to state
    it:

    =======================  =============================  ===================================
    kind                     kernel                         weight
    =======================  =============================  ===================================
    ``linear``               [in, out]                      ``Linear``: [out, in]
    ``conv``                 [*window, in / groups, out]    ``Conv``: [out, in / groups, *window]
    ``conv_transpose``       [*window, in, out]             ``ConvTranspose``: [in, out, *window],
                                                            the window turned around
    ``conv_transpose_swap``  [*window, out, in]             ``ConvTranspose``: [in, out, *window]
    ``split_heads``          [in, heads, size]              ``Linear``: [heads * size, in]
    ``merge_heads``          [heads, size, out]             ``Linear``: [out, heads * size]
    =======================  =============================  ===================================

    ``conv_transpose`` is the layer of Flax, ``conv_transpose_swap`` the one with
    ``transpose_kernel=True``. Flax pads a transposed convolution by ``"SAME"`` in another way than
    PyTorch; ``"VALID"`` is ``padding=0`` in PyTorch. ``scale`` and ``embedding`` become ``weight``,
    running statistics ``running_mean`` and ``running_var``; every other leaf keeps its name and
    shape. (A recurrent cell of Flax consists of dense layers, and its names do, too; an ``LSTM`` of
    PyTorch stacks them.) The parts of a path are joined by dots. Saving and loading::

        state = torch_state(params, {"dense1": (4, 4)}, {"conv1": "conv", "conv2": "conv"})
        safetensors.numpy.save_file(state, "network.safetensors")
        model.load_state_dict(safetensors.torch.load_file("network.safetensors"), strict=False)

    (The ``num_batches_tracked`` of BatchNorm is missing, hence ``strict=False``.)

    Args:
      params: pytree of arrays by layer, with running statistics where there are some; forms of
        compressed weights are decoded.
      flattened: height and width of the map, by path, for each dense layer that reads a flattened
        map: the inputs of its kernel are reordered from channels last to channels first.
      kinds: the kind of each kernel, as in the table, by the path of its layer with ``/`` between
        the parts; or one kind for all kernels of three or more dimensions.

    Returns:
      Contiguous arrays by name, with the dtypes of ``params``.

    Raises:
      ValueError: ``params`` are empty; a kernel of three or more dimensions has no kind, or one
        that does not fit its shape; a bias, a scale, a statistic or an embedding has another number
        of dimensions than in PyTorch; ``kinds`` or ``flattened`` names a layer without a kernel, or
        sizes that do not divide its inputs; two leaves have the same name.
    """
    state: dict[str, np.ndarray] = {}
    maps = dict(flattened or {})
    left = {} if isinstance(kinds, str) else dict(kinds or {})
    flat = [(path, np.asarray(leaf)) for path, leaf in flatten_with_path(decode(params))]
    if not flat:
        raise ValueError("params must hold at least one array; got none")
    chosen: dict[str, str] = {}
    for path, array in flat:
        if _part(path, -1) == "kernel":
            layer = name_of(path[:-1])
            told = kinds if isinstance(kinds, str) and array.ndim > 2 else left.pop(layer, None)
            chosen[layer] = _kind(name_of(path), array.shape, told)
    for path, array in flat:
        layer, part = name_of(path[:-1]), _part(path, -1)
        if part == "kernel":
            array = _flattened(layer, chosen[layer], array, maps.pop(layer, None))
            array = _KINDS[chosen[layer]][1](array)
        elif part in ("bias", "scale", "mean", "var"):
            if chosen.get(layer) == "split_heads" and part == "bias":
                array = array.reshape(-1)
            if array.ndim != 1:
                raise ValueError(_stacked(path, array, "one dimension"))
        elif part == "embedding" and array.ndim != 2:
            raise ValueError(_stacked(path, array, "two dimensions"))
        parts = [_part(path, place) for place in range(len(path) - 1)]
        name = ".".join([*parts, _NAMES.get(part, part)])
        if name in state:
            raise ValueError(f"params hold two leaves for {name}")
        state[name] = np.asarray(array, order="C")
    for argument, names in (("flattened", maps), ("kinds", left)):
        if names:
            raise ValueError(
                f"{argument} must name layers with kernels; params have no {sorted(names)}"
            )
    return state


def _stacked(path: tuple[Any, ...], array: np.ndarray, wanted: str) -> str:
    return (
        f"params hold {name_of(path)} of shape {array.shape}; PyTorch's have {wanted} (layers that "
        "are stacked have to be taken apart)"
    )


def _part(path: tuple[Any, ...], place: int) -> str:
    """A part of a path; the path of a tree that is a leaf has one without a name."""
    return jax.tree_util.keystr((path[place],), simple=True) if path else ""


def _moved(array: np.ndarray) -> np.ndarray:
    """Move the axes [*window, a, b] of a kernel to [b, a, *window]."""
    return np.moveaxis(array, (-1, -2), (0, 1))


def _conv_transpose(array: np.ndarray) -> np.ndarray:
    turned = np.flip(array, tuple(range(array.ndim - 2)))
    return np.moveaxis(turned, (-2, -1), (0, 1))


# By name: how many dimensions the kernel has, and its weight.
_KINDS: dict[str, tuple[tuple[int, ...], Callable[[np.ndarray], np.ndarray]]] = {
    "linear": ((2,), _moved),
    "conv": ((3, 4, 5), _moved),
    "conv_transpose": ((3, 4, 5), _conv_transpose),
    "conv_transpose_swap": ((3, 4, 5), _moved),
    "split_heads": ((3,), lambda array: array.reshape(len(array), -1).T),
    "merge_heads": ((3,), lambda array: array.reshape(-1, array.shape[-1]).T),
}


def _kind(name: str, shape: tuple[int, ...], told: str | None) -> str:
    """Return the kind of layer of a kernel: as given, or dense if it has two dimensions."""
    if told is None and len(shape) == 2:
        return "linear"
    if told is None:
        fit = [kind for kind, (dimensions, _) in _KINDS.items() if len(shape) in dimensions]
        remedy = f"say by kinds which of {fit} it is" if fit else "PyTorch has no layer with such"
        raise ValueError(
            f"params hold {name} of shape {shape}, which does not say to what layer it belongs: "
            f"{remedy} (if it stacks several layers, take them apart)"
        )
    if told not in _KINDS:
        raise ValueError(f"kinds must be among {sorted(_KINDS)}; got {told!r} for {name}")
    if len(shape) not in _KINDS[told][0]:
        raise ValueError(
            f"kinds says {told!r} for {name}, whose shape is {shape}; such kernels have "
            f"{' or '.join(map(str, _KINDS[told][0]))} dimensions"
        )
    return told


def _flattened(
    layer: str, kind: str, array: np.ndarray, sides: tuple[int, int] | None
) -> np.ndarray:
    """A dense kernel whose inputs are a map's, channels first."""
    if sides is None:
        return array
    positions = sides[0] * sides[1]
    if kind != "linear" or positions < 1 or len(array) % positions:
        raise ValueError(
            f"flattened: {layer} has a kernel of shape {array.shape}, which reads no map of "
            f"{sides[0]} x {sides[1]}"
        )
    by_place = array.reshape(*sides, -1, array.shape[1])
    return by_place.transpose(2, 0, 1, 3).reshape(array.shape)
