"""Biases that are added to a product, so that the product can start from them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from sparsejax.graph import Contraction, Graph


def find_biases(
    graph: Graph,
    contractions: Mapping[int, Contraction],
    values: Mapping[int, Any],
    known: set[int],
) -> dict[int, tuple[int, np.ndarray]]:
    """Find the dense products to which one known number for each output unit is added.

    Args:
      graph: the traced network.
      contractions: its products with known weights, by the index of their equation.
      values: the values that are computed already.
      known: those of them that do not depend on the inputs, which are NumPy arrays.

    Returns:
      For the equation of such a product: the value that holds the sum, and the bias [out].
    """
    uses = graph.uses()
    products = {}
    for number, contraction in contractions.items():
        equation = graph.equations[number]
        if equation.name == "dot_general" and uses[equation.outs[0]] == 1:
            products[equation.outs[0]] = number, contraction.result_axes
    found = {}
    for equation in graph.equations:
        if equation.name != "add":
            continue
        for product, added in (equation.ins, equation.ins[::-1]):
            if product in products and added in known:
                number, axes = products[product]
                bias = _by_unit(values[added], graph.shapes[product], axes)
                if bias is not None:
                    found[number] = equation.outs[0], bias
                break
    return found


def is_symbolic(shape: tuple[Any, ...]) -> bool:
    """Return whether a length is symbolic, as the batch size is under ``jax.export``."""
    return not all(isinstance(length, int) for length in shape)


def _by_unit(array: np.ndarray, shape: tuple[int, ...], axes: tuple[int, ...]) -> np.ndarray | None:
    """Return the number of each unit, [out], or None if it differs between other positions."""
    # A known array does not vary along a symbolic batch.
    lengths = [1 if is_symbolic((length,)) else length for length in shape]
    whole = np.moveaxis(np.broadcast_to(array, lengths), axes, range(len(axes)))
    units = whole.reshape(math.prod(shape[axis] for axis in axes), -1)
    if not units.size or (units != units[:, :1]).any():
        return None
    return units[:, 0]
