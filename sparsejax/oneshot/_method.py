"""What a method of pruning one kernel is."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import NamedTuple, TypeAlias

from jaxtyping import Array, Float, Int32

from sparsejax.oneshot._patterns import Pattern

Weights: TypeAlias = Float[Array, "outputs inputs"]
"""The weights of a kernel as a matrix."""
Gram: TypeAlias = Float[Array, "inputs inputs"]
"""The mean of the products x x' of a kernel's inputs."""
Pruned: TypeAlias = tuple[Weights, Float[Array, ""]]
"""Pruned weights; and the damping of the Gram matrix if that asked for was not enough, else 0."""


class Method(NamedTuple):
    """A method that prunes a kernel, as `admm` and its siblings return it; hashable."""

    name: str
    """The name of the method."""
    run: Callable[..., Pruned]
    """``(weights, gram, pattern, count, *options) -> (weights, damping)``, for one kernel."""
    options: tuple[Hashable, ...] = ()
    """The options of the method."""

    def prune(
        self, weights: Weights, gram: Gram, pattern: Pattern, count: Int32[Array, ""]
    ) -> Pruned:
        """Return the pruned weights of one kernel, and the relative damping of the Gram matrix."""
        return self.run(weights, gram, pattern, count, *self.options)
