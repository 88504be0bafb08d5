"""Edges between dependency groups: which units are computed from which."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sparsejax.graph._contraction import Contraction


class SliceEdge(NamedTuple):
    """Units ``start``, ``start + 1``, ... of ``reader`` are the units ``indices`` of ``source``."""

    reader: int
    """The group that reads."""
    start: int
    """The first unit of ``reader`` that this edge is about."""
    source: int
    """The group that is read."""
    indices: np.ndarray
    """A unit of ``source`` for each unit of ``reader`` from ``start`` on."""


class ReshapeEdge(NamedTuple):
    """The units of ``merged`` are the tuples of units of ``factors``, in row-major order."""

    merged: int
    """The group of the merged dimension."""
    factors: tuple[int, ...]
    """The groups of its factors, in order."""
    grid: bool
    """Whether the kept units must be all tuples of kept units of the factors (a dimension that is
    split)."""


class ContractionEdge(NamedTuple):
    """The units of ``written`` are weighted sums of those of ``read``."""

    equation: int
    """The number of the equation."""
    contraction: Contraction
    """The product."""
    read: int
    """The group that is summed over."""
    written: tuple[int, ...]
    """The groups of the result's dimensions that are dimensions of the weights."""


class ProductEdge(NamedTuple):
    """Entries of a result are sums of products over tuples of units.

    A tuple is needed if both factors may be different from zero there, in an entry that is kept.
    """

    equation: int
    """The number of the equation."""
    read: tuple[int, ...]
    """The groups that are summed over."""
    batch: tuple[int, ...]
    """The groups of the dimensions that both factors and the result have."""
    left: tuple[int, ...]
    """The groups of the other dimensions of the left factor."""
    right: tuple[int, ...]
    """The groups of the other dimensions of the right factor."""


class ReductionEdge(NamedTuple):
    """Entries of a result are sums, maxima or the like over the units of a dimension."""

    equation: int
    """The number of the equation."""
    axis: int
    """The operand's dimension that is reduced."""
    read: int
    """Its group."""
    written: tuple[int, ...]
    """The groups of the result's dimensions."""


Edge = SliceEdge | ReshapeEdge | ContractionEdge | ProductEdge | ReductionEdge
