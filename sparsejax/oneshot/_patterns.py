"""Patterns of sparsity of a matrix [outputs, inputs]: what is kept or pruned together."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from sparsejax._counts import exact_sparsity, kept
from sparsejax._where import everything
from sparsejax.projections import project_n_m, top_k_mask

Mask: TypeAlias = Bool[Array, "outputs inputs"]

_MOST_ITEMS = 2**31 - 1
_ALLOWED = (
    "pattern must be 'row', 'layer', 'global', 'n:m' such as '2:4', inputs x outputs of a block "
    "such as '4x1', 'units' or 'inputs' (of groups: 'units/64')"
)


class Pattern(NamedTuple):
    """The groups that are kept or pruned together, and the entries over which they are counted."""

    kind: str
    """``"row"``, ``"layer"``, ``"global"``, ``"n_m"`` or ``"groups"``."""
    numbers: tuple[int, int] = (1, 1)
    """n and m; or the inputs and outputs of a group, 0 for all of them."""

    def group(self, outputs: int, inputs: int) -> tuple[int, int]:
        """Return how many outputs and inputs a group of a matrix has."""
        wide, high = self.numbers
        return high or outputs, wide or inputs

    def width(self, inputs: int) -> int:
        """Return how many neighbouring inputs are chosen together."""
        if self.kind == "n_m":
            return self.numbers[1]
        return self.group(1, inputs)[1] if self.kind == "groups" else 1

    def check(self, name: str, outputs: int, inputs: int) -> None:
        """Check that groups divide a matrix.

        Raises:
          ValueError: they do not, or there are more items to count than an int32 can.
        """
        high, wide = (1, self.numbers[1]) if self.kind == "n_m" else (1, 1)
        if self.kind == "groups":
            high, wide = self.group(outputs, inputs)
        for what, length, group in (("inputs", inputs, wide), ("outputs", outputs, high)):
            if length % group:
                raise ValueError(
                    f"pattern needs kernels whose {what} are a multiple of {group}; {name} has "
                    f"{length} {what}. Leave it out by where="
                )
        if self.counted(outputs, inputs) > _MOST_ITEMS:
            raise ValueError(
                f"pattern {self.kind!r} counts at most {_MOST_ITEMS} weights of a kernel; {name} "
                f"has {outputs} outputs x {inputs} inputs. Leave it out by where= or use 'row'"
            )

    def counted(self, outputs: int, inputs: int) -> int:
        """Return the number of items that a count is over: of a row, a matrix, or one n:m group."""
        if self.kind == "n_m":
            return self.numbers[1]
        if self.kind == "row":
            return inputs
        if self.kind == "groups":
            high, wide = self.group(outputs, inputs)
            return (outputs // high) * (inputs // wide)
        return outputs * inputs

    def kept(self, budget: Fraction | None, outputs: int, inputs: int) -> int:
        """Return how many of the counted items are kept at a sparsity."""
        if self.kind == "n_m":
            return self.numbers[0]
        assert budget is not None
        return kept(self.counted(outputs, inputs), budget, Fraction(1))

    def largest(self, scores: Float[Array, "outputs inputs"], count: Int32[Array, ""]) -> Mask:
        """Return the mask of the items with the largest sums of scores; ties keep the earlier.

        Args:
          scores: of the entries, >= 0: squares, whose sums are those of a group.
          count: the number of items that are kept, see `counted`.
        """
        if self.kind == "row":
            by_row: jax.Array = jax.vmap(lambda row: _largest(row, count))(scores)
            return by_row
        if self.kind == "n_m":
            # A kept entry may have the score 0.
            raised = jnp.maximum(scores, jnp.finfo(scores.dtype).tiny)
            nearest: jax.Array = project_n_m(raised, count, self.numbers[1], everything, axis=-1)
            return nearest != 0
        if self.kind == "groups":
            outputs, inputs = scores.shape
            high, wide = self.group(outputs, inputs)
            tiles = scores.reshape(outputs // high, high, inputs // wide, wide)
            kept_groups = _largest(tiles.sum((1, 3)), count)
            tiled = jnp.broadcast_to(kept_groups[:, None, :, None], tiles.shape)
            return tiled.reshape(scores.shape)
        return _largest(scores, count)

    @property
    def text(self) -> str:
        """The string that names the pattern, see `parse_pattern`."""
        first, second = self.numbers
        if self.kind == "n_m":
            return f"{first}:{second}"
        if self.kind != "groups":
            return self.kind
        if first and second:
            return f"{first}x{second}"
        name, size = ("inputs", first) if first else ("units", second)
        return name if size == 1 else f"{name}/{size}"

    @property
    def drops_outputs(self) -> bool:
        """Whether whole outputs are pruned, for which no other outputs can compensate."""
        return self.kind == "groups" and self.numbers[0] == 0

    @property
    def drops_inputs(self) -> bool:
        """Whether whole inputs are pruned, so that all outputs have the same mask."""
        return self.kind == "groups" and self.numbers[1] == 0


def parse_pattern(pattern: Any) -> Pattern:
    """Return the pattern that a string names.

    Raises:
      ValueError: it names none.
    """
    if pattern in ("row", "layer", "global"):
        return Pattern(pattern)
    if isinstance(pattern, str):
        pair = re.fullmatch(r"(\d+):(\d+)", pattern)
        if pair and 1 <= int(pair[1]) <= int(pair[2]):
            return Pattern("n_m", (int(pair[1]), int(pair[2])))
        block = re.fullmatch(r"(\d+)x(\d+)", pattern)
        if block and min(int(block[1]), int(block[2])) >= 1:
            return Pattern("groups", (int(block[1]), int(block[2])))
        whole = re.fullmatch(r"(units|inputs)(?:/(\d+))?", pattern)
        if whole and int(whole[2] or 1) >= 1:
            size = int(whole[2] or 1)
            return Pattern("groups", (0, size) if whole[1] == "units" else (size, 0))
    raise ValueError(f"{_ALLOWED}; got {pattern!r}")


def parse_budget(budget: Any, pattern: Pattern) -> Fraction | None:
    """Return the sparsity that is asked for; None for n:m patterns, which state it themselves.

    Raises:
      TypeError: ``budget`` is not a known number.
      ValueError: ``budget`` is not in [0, 1), or contradicts an n:m pattern.
    """
    if pattern.kind == "n_m":
        n, m = pattern.numbers
        if budget is not None and exact_sparsity("budget", budget) != Fraction(m - n, m):
            raise ValueError(
                f"budget must be None or {(m - n) / m:g} for the pattern {n}:{m}; got {budget}"
            )
        return None
    exact = exact_sparsity("budget", budget)
    if not isinstance(exact, Fraction):
        raise TypeError("budget must be a known number in [0, 1); got a traced one")
    return exact


def _largest(scores: jax.Array, count: jax.Array) -> jax.Array:
    mask: jax.Array = top_k_mask(scores, count, where=everything)
    return mask
