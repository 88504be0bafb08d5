"""Groupings: functions from the shape of a layer's kernel to the axes along which gates differ."""

from __future__ import annotations

from collections.abc import Callable

Grouping = Callable[[tuple[int, ...]], tuple[int, ...]]
"""``shape -> axes``: one gate for each index along these axes. Weights that differ only in their
index along other axes share a gate. The shape is that of a single layer: each of several stacked
layers has gates of its own."""


def per_weight(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Grouping with one gate for each weight (unstructured sparsity).

    Args:
      shape: shape of a leaf, with any number of dimensions.

    Returns:
      All axes.

    Example:
      >>> from sparsejax.gates import per_weight
      >>> per_weight((5, 5, 3, 8))
      (0, 1, 2, 3)
    """
    return tuple(range(len(shape)))


def per_input(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Grouping with one gate for each input unit of a kernel [..., in, out].

    A closed gate removes all weights that read the unit. Kernels of PyTorch and Equinox have their
    inputs second; for these pass ``lambda shape: (1,)`` instead.

    Args:
      shape: shape of a kernel, with two or more dimensions.

    Returns:
      The last axis but one.

    Raises:
      ValueError: the leaf has fewer than two dimensions.

    Example:
      >>> from sparsejax.gates import per_input
      >>> per_input((784, 300))
      (-2,)
    """
    _check_kernel("per_input", shape)
    return (-2,)


def per_output(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Grouping with one gate for each output unit or channel of a kernel [..., in, out].

    The bias of the same layer shares the gates (see ``tied`` in `sparsejax.gates`). Kernels of
    PyTorch and Equinox have their outputs first; for these pass ``lambda shape: (0,)`` instead.

    Args:
      shape: shape of a kernel, with two or more dimensions.

    Returns:
      The last axis.

    Raises:
      ValueError: the leaf has fewer than two dimensions.

    Example:
      >>> from sparsejax.gates import per_output
      >>> per_output((5, 5, 3, 8))
      (-1,)
    """
    _check_kernel("per_output", shape)
    return (-1,)


def _check_kernel(name: str, shape: tuple[int, ...]) -> None:
    if len(shape) < 2:
        raise ValueError(
            f"{name} gates kernels [..., in, out]; a leaf of shape {shape} has fewer than two "
            "dimensions"
        )
