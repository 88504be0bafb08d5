"""Which weights share a gate: a leaf's shape in, the shape of its gates out."""

from __future__ import annotations

from collections.abc import Callable

Grouping = Callable[[tuple[int, ...]], tuple[int, ...]]
"""``shape of a leaf -> shape of its gates``, which must broadcast to it."""


def per_weight(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A gate for each weight of a leaf of any shape: nothing is shared (unstructured sparsity)."""
    return shape


def per_input(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A gate for each input unit of a kernel [..., in, out]: it gates all that the unit feeds.

    Raises:
      ValueError: the leaf has fewer than two dimensions.
    """
    _check_kernel("per_input", shape)
    return (*(1,) * (len(shape) - 2), shape[-2], 1)


def per_output(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A gate for each output unit or channel of a kernel [..., in, out].

    The bias of the same layer follows the gate (see `apply`).

    Raises:
      ValueError: the leaf has fewer than two dimensions.
    """
    _check_kernel("per_output", shape)
    return (*(1,) * (len(shape) - 1), shape[-1])


def _check_kernel(name: str, shape: tuple[int, ...]) -> None:
    if len(shape) < 2:
        raise ValueError(
            f"{name} gates kernels [..., in, out]; a leaf of shape {shape} has fewer than two "
            "dimensions"
        )
