"""Which weights share a gate: a leaf's shape in, the axes along which gates differ out."""

from __future__ import annotations

from collections.abc import Callable

Grouping = Callable[[tuple[int, ...]], tuple[int, ...]]
"""``shape of a leaf -> axes with a gate for each index``; weights that differ along other axes
alone share a gate. Of stacked layers the shape is that of a single one: each has its own gates."""


def per_weight(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A gate for each weight of a leaf of any shape: nothing is shared (unstructured sparsity)."""
    return tuple(range(len(shape)))


def per_input(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A gate for each input unit of a kernel [..., in, out]: it gates all that the unit feeds.

    Kernels of PyTorch and Equinox have their inputs second; for them pass ``lambda shape: (1,)``.

    Raises:
      ValueError: the leaf has fewer than two dimensions.
    """
    _check_kernel("per_input", shape)
    return (-2,)


def per_output(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A gate for each output unit or channel of a kernel [..., in, out].

    The bias of the same layer is tied to the gate (see `hard_concrete`). Kernels of PyTorch and
    Equinox have their outputs first; for them pass ``lambda shape: (0,)``.

    Raises:
      ValueError: the leaf has fewer than two dimensions.
    """
    _check_kernel("per_output", shape)
    return (-1,)


def _check_kernel(name: str, shape: tuple[int, ...]) -> None:
    if len(shape) < 2:
        raise ValueError(
            f"{name} gates kernels [..., in, out]; a leaf of shape {shape} has fewer than two "
            "dimensions"
        )
