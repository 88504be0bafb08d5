"""Parameters in PyTorch's names and layouts."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sparsejax._names import named_leaves
from sparsejax._where import PyTree

_NAMES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}


def torch_state(
    params: PyTree, flattened: Mapping[str, tuple[int, int]] | None = None
) -> dict[str, np.ndarray]:
    """The ``state_dict`` of a PyTorch model whose modules are named like the layers.

    Kernels go from [in, out] to [out, in], those of convolutions from [height, width, in, out] to
    [out, in, height, width]; ``kernel`` and ``scale`` become ``weight``, running statistics
    ``running_mean`` and ``running_var``; parts of a path are joined by dots. To save and to load::

        safetensors.numpy.save_file(torch_state(params, {"dense1": (4, 4)}), "network.safetensors")
        model.load_state_dict(safetensors.torch.load_file("network.safetensors"))  # in PyTorch

    (BatchNorm's ``num_batches_tracked`` is not among them: ``strict=False``.)

    Args:
      params: pytree of arrays by layer, running statistics among them where there are some.
      flattened: the dense layers that read a flattened map, by path, with its height and width: the
        inputs of their kernels are put from channels last into channels first.

    Returns:
      Contiguous arrays by name, with the dtypes of ``params``.

    Raises:
      ValueError: ``flattened`` names a layer without a kernel of two dimensions, or sizes that do
        not divide its inputs; two leaves have one name.
    """
    state: dict[str, np.ndarray] = {}
    maps = dict(flattened or {})
    for path, leaf in named_leaves(params):
        layer, _, part = path.rpartition("/")
        array = np.asarray(leaf)
        if part == "kernel":
            array = _kernel(layer, array, maps.pop(layer, None))
        name = ".".join([*layer.split("/"), _NAMES.get(part, part)] if layer else [part])
        if name in state:
            raise ValueError(f"params hold two leaves for {name}")
        state[name] = np.ascontiguousarray(array)
    if maps:
        raise ValueError(f"flattened must name layers with kernels; params have no {sorted(maps)}")
    return state


def _kernel(layer: str, array: np.ndarray, sides: tuple[int, int] | None) -> np.ndarray:
    """Inputs and outputs first, outputs before inputs."""
    if sides is not None:
        positions = sides[0] * sides[1]
        if array.ndim != 2 or positions < 1 or len(array) % positions:
            raise ValueError(
                f"flattened: {layer} has a kernel of shape {array.shape}, which reads no map of "
                f"{sides[0]} x {sides[1]}"
            )
        by_place = array.reshape(*sides, -1, array.shape[1])
        array = by_place.transpose(2, 0, 1, 3).reshape(array.shape)
    return np.moveaxis(array, (-1, -2), (0, 1))
