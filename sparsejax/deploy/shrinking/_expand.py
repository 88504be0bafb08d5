"""Expand shrunk parameters to the shapes they came from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from sparsejax._names import leaves_by_name, named_leaves
from sparsejax._where import PyTree
from sparsejax.deploy.shrinking._shrink import Shrunk


def expand(smaller: PyTree, shrunk: Shrunk, params: PyTree) -> PyTree:
    """Return parameters of the original shapes that compute what the smaller ones do.

    A pruned network can be trained further at its smaller size, and be expanded to the shapes of
    its checkpoints, its masks and its published figures. Removed weights are zero. So are those of
    a unit with a constant output, its bias included: the constant stays where `shrink` put it, in
    the bias that follows, and the weights that would read the unit are zero, too.

    This holds if the parameters have those weights and biases: weights that ``function`` closes
    over and that read a constant unit still read its output at zero. A unit of zeros must be finite
    (nothing divides by its parameters). Runs on the host.

    Args:
      smaller: a tree like ``shrunk.params``, with any values.
      shrunk: what `shrink` returned for the original network.
      params: that network's parameters; only shapes and dtypes are used.

    Returns:
      A tree like ``params``.

    Raises:
      ValueError: ``params`` or ``smaller`` do not fit ``shrunk``; or constants went into arrays
        that ``function`` closes over (means of batch normalisation, say), so that parameters alone
        cannot compute the same.
    """
    if shrunk.folded_into_closure:
        raise ValueError(
            "shrunk has constants in arrays that its function closes over, which expanded "
            "parameters would lack; give shrink those arrays among params"
        )
    arrays, kept = leaves_by_name(smaller), shrunk.kept
    for argument, found in (("smaller", arrays), ("params", leaves_by_name(params))):
        if found.keys() != kept.keys():
            raise ValueError(
                f"{argument} must have the leaves that shrink was given, {sorted(kept)}; got "
                f"{sorted(found)}"
            )

    def scatter(name: str, leaf: Any) -> np.ndarray:
        small, whole = np.asarray(arrays[name]), np.zeros(leaf.shape, leaf.dtype)
        if not _fits(small.shape, whole.shape, kept[name]):
            raise ValueError(
                "smaller must have the shapes that shrink left, and params those that it was "
                f"given; {name} has {small.shape} and {whole.shape}"
            )
        indices = [
            np.arange(length) if stays is None else stays
            for length, stays in zip(whole.shape, kept[name], strict=True)
        ]
        whole[np.ix_(*indices)] = small
        return whole

    whole = [scatter(name, leaf) for name, leaf in named_leaves(params)]
    return jax.tree.unflatten(jax.tree.structure(params), whole)


def _fits(small: Sequence[int], whole: Sequence[int], kept: Sequence[np.ndarray | None]) -> bool:
    return len(small) == len(whole) == len(kept) and all(
        left == length if stays is None else left == len(stays) and stays[-1] < length
        for left, length, stays in zip(small, whole, kept, strict=True)
    )
