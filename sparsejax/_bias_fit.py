"""Which axes of a kernel a bias runs along, from their shapes."""

from __future__ import annotations

from typing import Literal, NamedTuple

Shape = tuple[int, ...]
Layout = Literal["outputs last", "outputs first"]
BOTH: tuple[Layout, ...] = ("outputs last", "outputs first")


class Fit(NamedTuple):
    """One way in which a bias can stand beside a kernel."""

    stacked: int
    """How many leading axes of both are stacked layers."""
    layout: Layout
    """Where a layer's kernel has its outputs: last as in Flax, Haiku and Keras ([..., in, out]), or
    first as in PyTorch and Equinox ([out, in, ...])."""
    axes: tuple[int | None, ...]
    """The kernel's axis for each axis of the bias, None where the bias has a 1 to broadcast."""


def fits(kernel: Shape, bias: Shape, layouts: tuple[Layout, ...] = BOTH) -> list[Fit]:
    """All ways in which the shapes agree, those with fewer stacked axes first.

    After the stacked axes, which both have, the kernel has two or more dimensions of its own, and
    the bias has some of them: with outputs last the last of them, one or more ((heads, features)
    beside (in, heads, features)), or one with ones in place of all that come before it or with ones
    behind it; with outputs first the first of them, perhaps with ones behind it ((out, 1, 1) of a
    convolution).
    """
    found = []
    for stacked in range(len(kernel) - 1):
        if len(bias) <= stacked or bias[:stacked] != kernel[:stacked]:
            break
        for layout in layouts:
            axes = _own_axes(kernel[stacked:], bias[stacked:], layout)
            if axes is not None:
                shifted = (None if axis is None else axis + stacked for axis in axes)
                found.append(Fit(stacked, layout, (*range(stacked), *shifted)))
    return found


def _own_axes(kernel: Shape, bias: Shape, layout: Layout) -> tuple[int | None, ...] | None:
    """The kernel's axis for each axis of the bias of a single layer, or None if it does not fit."""
    count, last = len(bias), len(kernel) - 1
    if bias == kernel or count > len(kernel):
        return None
    ones = (1,) * (count - 1)
    if layout == "outputs last":
        if count <= last and bias == kernel[-count:]:
            return tuple(range(len(kernel) - count, len(kernel)))
        if count == len(kernel) and bias == (*ones, kernel[-1]):
            return (*(None,) * (count - 1), last)
        if count <= last and bias == (kernel[-1], *ones):
            return (last, *(None,) * (count - 1))
    elif count <= last and bias == (kernel[0], *ones):
        return (0, *(None,) * (count - 1))
    return None
