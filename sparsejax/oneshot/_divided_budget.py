"""The share of each stage in one budget for all kernels."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from jaxtyping import Array, PyTree

from sparsejax.oneshot._calibration import Calibration
from sparsejax.oneshot._comparison import Comparison, divided
from sparsejax.oneshot._kernel_budgets import KernelBudget
from sparsejax.oneshot._kernels import kernels_of
from sparsejax.oneshot._sensitivity import SquaredGradients
from sparsejax.oneshot._stages import Part


def budgets_of_parts(
    params: PyTree[Array],
    dense: Calibration,
    sparsity: Fraction,
    comparison: Comparison,
    parts: Sequence[Part],
    names: Sequence[str],
    gradients: SquaredGradients | None,
) -> dict[str, KernelBudget]:
    """Return the budget of each part by its label.

    Args:
      params: the parameters.
      dense: their calibration.
      sparsity: the fraction of all weights to prune.
      comparison: see `sparsejax.oneshot.prune`.
      parts: the parts of the kernels.
      names: the names of all parameters.
      gradients: the squared gradients of the kernels, for ``comparison="loss"``.
    """
    kernels = kernels_of(params, dense, None).kernels
    budgets = divided(kernels, sparsity, comparison, gradients)
    by_name = {kernel.name: own for kernel, own in zip(kernels, budgets, strict=True)}
    found = {}
    for part in parts:
        layout, (counts, scales) = dense.layouts[names[part.leaf]], by_name[names[part.leaf]]
        lengths = [layout.shape[axis] for axis in layout.batch_axes]
        places = np.arange(layout.batch).reshape(lengths)
        own = places[tuple(slice(None) if index is None else index for index in part.entry)].ravel()
        found[part.label(names)] = KernelBudget(
            [counts[place] for place in own], None if scales is None else scales[own]
        )
    return found
