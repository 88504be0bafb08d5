"""The way back from shrunk parameters to the shapes they came from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from sparsejax._names import leaves_by_name, named_leaves
from sparsejax._where import PyTree
from sparsejax.deploy.shrinking._shrink import Shrunk


def expand(smaller: PyTree, shrunk: Shrunk, params: PyTree) -> PyTree:
    """Parameters of the original shapes that compute what the smaller ones do.

    A network pruned for good can be trained on at the size of what is left of it, and end in the
    shapes that its checkpoints, its masks and its published figures have. What was taken out is
    zero. So is a unit that put out a constant, its bias included: the constant stays where `shrink`
    put it, in the bias above, and the weights that would read the unit are zero, too.

    That holds where the parameters have those weights and biases: where ``function`` closes over
    weights that read a constant unit, they still read whatever its unit puts out at zero. And a
    unit of zeros must be finite (nothing divides by its parameters). Runs on the host.

    Args:
      smaller: like ``shrunk.params``, with any values.
      shrunk: what `shrink` left of the original network.
      params: that network's parameters; shapes and dtypes count alone.

    Returns:
      A tree like ``params``.

    Raises:
      ValueError: ``params`` or ``smaller`` do not fit ``shrunk``; or constants went into arrays
        that ``function`` closes over (means of batch normalisation, say), so that parameters alone
        cannot compute the same.
    """
    if shrunk.folded_outside:
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
        places = [
            np.arange(length) if stays is None else stays
            for length, stays in zip(whole.shape, kept[name], strict=True)
        ]
        whole[np.ix_(*places)] = small
        return whole

    whole = [scatter(name, leaf) for name, leaf in named_leaves(params)]
    return jax.tree.unflatten(jax.tree.structure(params), whole)


def _fits(small: Sequence[int], whole: Sequence[int], kept: Sequence[np.ndarray | None]) -> bool:
    return len(small) == len(whole) == len(kept) and all(
        left == length if stays is None else left == len(stays) and stays[-1] < length
        for left, length, stays in zip(small, whole, kept, strict=True)
    )
