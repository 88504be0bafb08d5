"""Multiply-accumulates of a forward pass."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from sparsejax._where import PyTree
from sparsejax.inspection.live_units import layer_kernels


def macs(params: PyTree, layers: Sequence[str], positions: Mapping[str, int] | None = None) -> int:
    r"""Multiply-accumulates of one example's forward pass through dense kernels of these shapes.

    .. math:: \sum_l P_l \prod \operatorname{shape}(W_l)

    Zeros in a kernel count: of a pruned network, count the one that `purge` leaves
    (``macs(purge(params, layers).layers, layers, positions)``).

    Args:
      params: pytree of parameters (or of their shapes), as for `live_units`.
      layers: the path of each layer's node, parts joined by ``/``.
      positions: P, at how many output positions a layer's kernel is applied: height times width of
        a convolution's output; 1 for a layer that is not there.

    Raises:
      ValueError: a layer is not in ``params``; or ``positions`` names a layer that is not in
        ``layers``, or gives it less than one position.
    """
    places = dict(positions or {})
    for layer, count in places.items():
        if layer not in layers or count < 1:
            raise ValueError(
                f"positions must give layers among {list(layers)} a count >= 1; got "
                f"{layer!r}: {count}"
            )
    kernels = layer_kernels(params, layers)
    return sum(
        places.get(layer, 1) * math.prod(kernel.shape)
        for layer, kernel in zip(layers, kernels, strict=True)
    )
