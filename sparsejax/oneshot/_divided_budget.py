"""The share of each stage in one budget for all kernels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from sparsejax.oneshot._calibration import Calibration, KernelInputs, KernelLayout
from sparsejax.oneshot._comparison import Comparison, divided
from sparsejax.oneshot._kernels import kernels_of
from sparsejax.oneshot._sensitivity import SquaredGradients
from sparsejax.oneshot._stages import Part


def kept_by_part(
    params: PyTree[Array],
    dense: Calibration,
    sparsity: Fraction,
    comparison: Comparison,
    parts: Sequence[Part],
    names: Sequence[str],
    gradients: SquaredGradients | None,
) -> dict[str, list[int]]:
    """Return how many weights each matrix of each part keeps, by the part's label.

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
    counts = divided(kernels, sparsity, comparison, gradients)
    by_name = {kernel.name: own for kernel, own in zip(kernels, counts, strict=True)}
    found = {}
    for part in parts:
        layout = dense.layouts[names[part.leaf]]
        lengths = [layout.shape[axis] for axis in layout.batch_axes]
        grid = np.asarray(by_name[names[part.leaf]]).reshape(lengths)
        own = grid[tuple(slice(None) if index is None else index for index in part.entry)]
        found[part.label(names)] = own.ravel().tolist()
    return found


def prune_matrices(
    dense: Mapping[str, Array],
    calibration: Calibration,
    counts: Mapping[str, Sequence[int]],
    run: Callable[..., PyTree[Array]],
) -> dict[str, Array]:
    """Prune each matrix of some kernels to its own count.

    Args:
      dense: kernels by their labels.
      calibration: their calibration.
      counts: how many weights each matrix keeps.
      run: prunes ``(params, calibration, budget)``.
    """
    found = {}
    for label, kernel in dense.items():
        layout, inputs = calibration.layouts[label], calibration.inputs[label]
        matrices, size = layout.matrices(kernel), layout.outputs * layout.inputs
        one = KernelLayout((layout.outputs, layout.inputs), (), (0,), (1,))
        pruned = []
        for n, count in enumerate(counts[label]):
            if not count:
                pruned.append(jnp.zeros_like(matrices[n]))
                continue
            own = KernelInputs(inputs.gram[n : n + 1], inputs.rows[n : n + 1])
            budget = Fraction(size - count, size)
            result: Any = run({label: matrices[n]}, Calibration({label: own}, {label: one}), budget)
            pruned.append(result[label])
        found[label] = layout.kernel(jnp.stack(pruned))
    return found
