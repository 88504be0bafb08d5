"""Patterns of sparsity: single weights, n:m groups, blocks and channels."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32, UInt32

from sparsejax._dtypes import at_least_float32
from sparsejax._explicit_axes import cut_like
from sparsejax._where import everything
from sparsejax.projections import project_blocks, project_n_m, project_units, top_k_mask

Scores: TypeAlias = Sequence[Float[Array, "..."]]
"""Scores >= 0 of the weights, one array for each leaf; the largest are kept."""
Masks: TypeAlias = list[Bool[Array, "..."]]
Counts: TypeAlias = Int32[Array, " groups"] | UInt32[Array, "groups 2"]
"""Numbers of items; where one may exceed 2**31 - 1, pairs of the high and the low 32 bits."""


class Pattern(NamedTuple):
    """The groups of weights that are kept or pruned together."""

    kind: str
    """``"weights"``, ``"n_m"``, ``"blocks"`` or ``"channels"``."""
    numbers: tuple[int, ...] = ()
    """n and m, or the rows and columns of a block."""

    def items(self, shape: tuple[int, ...]) -> int:
        """Return how many items a budget counts in a leaf; for n:m, in one of its groups."""
        if self.kind == "n_m":
            return self.numbers[1]
        if self.kind == "channels":
            return shape[-1] if math.prod(shape) else 0
        if self.kind == "blocks":
            rows, columns = self.numbers
            return math.prod(shape[:-2]) * -(-shape[-2] // rows) * -(-shape[-1] // columns)
        return math.prod(shape)

    def first_entries(self, leaf: jax.Array) -> Bool[Array, "..."]:
        """Return the mask of one entry in each block or channel of a leaf."""
        lengths = [1] * leaf.ndim  # of an item that goes along a dimension as a whole
        for axis in range(leaf.ndim):
            if self.kind == "channels" and axis < leaf.ndim - 1:
                lengths[axis] = max(1, leaf.shape[axis])
            if self.kind == "blocks" and axis >= leaf.ndim - 2:
                lengths[axis] = self.numbers[axis - leaf.ndim]
        first = jnp.ones((), bool)
        for axis, length in enumerate(lengths):
            place = jax.lax.broadcasted_iota(jnp.int32, leaf.shape, axis)
            first = first & (place % length == 0)
        return cut_like(jnp.broadcast_to(first, leaf.shape), leaf)

    def check(self, paths: Sequence[str], leaves: Sequence[Any]) -> None:
        """Check that all leaves have the dimensions that the pattern needs.

        Raises:
          ValueError: one has too few, or its inputs are not a multiple of m.
        """
        least = {"weights": 0, "channels": 1}.get(self.kind, 2)
        for path, leaf in zip(paths, leaves, strict=True):
            if leaf.ndim < least:
                raise ValueError(
                    f"where must choose leaves of {least} or more dimensions for this pattern; "
                    f"{path or 'the leaf'} has shape {leaf.shape}"
                )
            if self.kind == "n_m" and leaf.shape[-2] % self.numbers[1]:
                raise ValueError(
                    f"pattern needs a multiple of {self.numbers[1]} inputs, the dimension before "
                    f"the last; {path or 'the leaf'} has shape {leaf.shape}; leave it out by where="
                )

    def largest(
        self, scores: Scores, counts: Counts, within: Masks, groups: Sequence[Sequence[int]]
    ) -> Masks:
        """Return masks of the items with the largest scores.

        Args:
          scores: arrays >= 0; NaN counts as 0.
          counts: the number of items for each group.
          within: masks of the weights that may be kept.
          groups: indices of the leaves whose items are ranked together, group by group.

        Returns:
          Boolean arrays of the shapes of the scores.
        """
        known = [jnp.where(jnp.isnan(score), 0, score).astype(score.dtype) for score in scores]
        found = list(within)
        for number, group in enumerate(groups):
            masks = self._of([known[i] for i in group], counts[number], [within[i] for i in group])
            for i, mask in zip(group, masks, strict=True):
                found[i] = mask
        return found

    def _of(self, scores: Scores, count: jax.Array, within: Masks) -> Masks:
        scores = list(scores)
        if self.kind == "weights":
            return list(top_k_mask(scores, count, within, everything))
        # In float16 the numbers below the smallest normal one are not few.
        scores = [score.astype(at_least_float32(score)) for score in scores]
        # The smallest normal number stands for zeros inside, so that only those outside are 0.
        raised = [
            jnp.where(allowed, jnp.maximum(score, jnp.finfo(score.dtype).tiny), 0)
            .astype(score.dtype)
            for score, allowed in zip(scores, within, strict=True)
        ]  # fmt: skip
        if self.kind == "n_m":
            found = project_n_m(raised, count, self.numbers[1], everything)
        elif self.kind == "blocks":
            found = project_blocks(raised, count, self.numbers, everything)  # type: ignore[arg-type]
        else:
            found = project_units(raised, count, everything)
        return [leaf != 0 for leaf in found]


def parse_pattern(pattern: str | None) -> Pattern:
    """Return the pattern that a string names.

    Raises:
      ValueError: it names none.
    """
    if pattern is None:
        return Pattern("weights")
    if pattern == "channels":
        return Pattern("channels")
    if isinstance(pattern, str):
        pair = re.fullmatch(r"(\d+):(\d+)", pattern)
        if pair and 1 <= int(pair[1]) <= int(pair[2]):
            return Pattern("n_m", (int(pair[1]), int(pair[2])))
        block = re.fullmatch(r"(\d+)x(\d+)", pattern)
        if block and min(int(block[1]), int(block[2])) >= 1:
            return Pattern("blocks", (int(block[1]), int(block[2])))
    raise ValueError(
        "pattern must be None for single weights, 'n:m' such as '2:4', 'rows x columns' of a block "
        f"such as '4x1', or 'channels'; got {pattern!r}"
    )


def random_scores(key: Array, leaves: Sequence[jax.Array], pattern: Pattern) -> list[jax.Array]:
    """Return scores >= 0 whose order is random, one array for each leaf, with 30 random bits.

    The bits of an entry do not depend on how its leaf is sharded. Blocks and channels have one
    score each, of 23 bits, in one of their entries: the sum over all would favour large ones.
    """
    scores = []
    for n, leaf in enumerate(leaves):
        bits = jax.random.bits(jax.random.fold_in(key, n), leaf.shape, jnp.uint32)
        # Ranked by their bits; the two leading zeros keep infinities and NaN out.
        score = jax.lax.bitcast_convert_type(bits >> 2, jnp.float32)
        if pattern.kind in ("blocks", "channels"):  # ranked by squares, so in [1, 2)
            one = jnp.uint32(0x3F800000)
            score = jax.lax.bitcast_convert_type(bits >> 9 | one, jnp.float32)
            score = jnp.where(pattern.first_entries(score), score, 0)
        scores.append(cut_like(score, leaf))
    return scores
