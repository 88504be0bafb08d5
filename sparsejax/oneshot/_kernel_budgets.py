"""What each matrix of a kernel is pruned to."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from jaxtyping import Array, Float

from sparsejax.oneshot._kernels import Kernel
from sparsejax.oneshot._patterns import Pattern


class KernelBudget(NamedTuple):
    """The budgets of the matrices of a kernel."""

    counts: list[int]
    """How many items each matrix keeps."""
    scales: Float[Array, "batch outputs"] | None = None
    """By what the error of each output is multiplied; None where all count the same."""


def equal_budgets(
    kernels: Sequence[Kernel], pattern: Pattern, sparsity: Fraction | None
) -> list[KernelBudget]:
    """Return budgets of the same sparsity for all kernels."""
    layouts = [kernel.layout for kernel in kernels]
    return [
        KernelBudget([pattern.kept(sparsity, layout.outputs, layout.inputs)] * layout.batch)
        for layout in layouts
    ]
