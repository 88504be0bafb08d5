"""The interface of a method that prunes one kernel."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable
from typing import Any, TypeAlias

import jax
from jaxtyping import Array, Float, Int32

from sparsejax.oneshot._patterns import Pattern

Weights: TypeAlias = Float[Array, "outputs inputs"]
"""The weights of a kernel as a matrix."""
Gram: TypeAlias = Float[Array, "inputs inputs"]
"""The mean of the products x x' of a kernel's inputs."""
Pruned: TypeAlias = tuple[Weights, Float[Array, ""]]
"""Pruned weights; and the damping of the Gram matrix if that asked for was not enough, else 0."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Method:
    """A method that prunes a kernel, as `admm` and its siblings return it.

    It is a pytree whose leaves are its numbers, so that programs do not depend on them.
    """

    name: str = dataclasses.field(metadata={"static": True})
    """The name of the method."""
    run: Callable[..., Pruned] = dataclasses.field(metadata={"static": True})
    """``(weights, gram, pattern, count, *options, *numbers) -> (weights, damping)``, for one
    kernel."""
    options: tuple[Hashable, ...] = dataclasses.field(metadata={"static": True}, default=())
    """Its options that programs depend on, such as numbers of iterations."""
    numbers: tuple[Any, ...] = ()
    """Its other options: floats and methods."""
    uses_inputs: bool = dataclasses.field(metadata={"static": True}, default=True)
    """Whether ``run`` reads the Gram matrix. A method that ignores it minimises no error of
    outputs: ``comparison="loss"`` then does not scale its weights, and kernels all of whose inputs
    were 0 cause no warning."""

    def prune(
        self, weights: Weights, gram: Gram, pattern: Pattern, count: Int32[Array, ""]
    ) -> Pruned:
        """Return the pruned weights of one kernel, and the damping if it had to be raised, else 0.

        Args:
          weights: the kernel as a matrix.
          gram: the mean of the products x x' of its inputs.
          pattern: what is pruned together.
          count: how many items are kept; may be traced.
        """
        return self.run(weights, gram, pattern, count, *self.options, *self.numbers)
