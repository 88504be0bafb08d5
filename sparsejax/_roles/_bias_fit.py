"""The axes of a kernel along which a bias runs, from their shapes."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

Shape: TypeAlias = tuple[int, ...]
Layout: TypeAlias = Literal["outputs last", "outputs first"]
BOTH: tuple[Layout, ...] = ("outputs last", "outputs first")


class Fit(NamedTuple):
    """One way in which the shape of a bias fits that of a kernel."""

    stacked: int
    """The number of leading axes, of both, that count stacked layers."""
    layout: Layout
    """The position of the outputs in a layer's kernel: last as in Flax, Haiku and Keras
    ([..., in, out]), or first as in PyTorch and Equinox ([out, in, ...])."""
    axes: tuple[int | None, ...]
    """For each axis of the bias the kernel's axis, or None for an axis of length 1 that is there
    for broadcasting."""


def fits(kernel: Shape, bias: Shape, layouts: tuple[Layout, ...] = BOTH) -> list[Fit]:
    """Return all ways in which a bias fits a kernel, those with fewer stacked axes first.

    Both shapes start with the stacked axes. After these the kernel has two or more dimensions. In
    the layout with outputs last, the bias has one or more of the kernel's last dimensions, such as
    (heads, features) beside (in, heads, features), or the last one with ones before or after it.
    In the layout with outputs first, the bias has the kernel's first dimension, which ones may
    follow, such as (out, 1, 1) for a convolution.
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
    """Return the kernel's axis for each axis of a layer's bias, or None if it does not fit."""
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
