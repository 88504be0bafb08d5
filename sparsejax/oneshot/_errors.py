"""Errors of the outputs of pruned kernels."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from sparsejax._names import leaves_by_name
from sparsejax.oneshot._calibration import Calibration
from sparsejax.oneshot._kernels import kernels_of
from sparsejax.oneshot._method import Gram, Weights
from sparsejax.oneshot._products import matmul


def layer_errors(
    params: PyTree[Array], pruned: PyTree[Array], calibration: Calibration
) -> dict[str, float]:
    r"""Return how much the outputs of each kernel have changed on the inputs of the calibration.

    .. math:: \frac{\|X (W - W_0)^\top\|_F^2}{\|X W_0^\top\|_F^2}
              = \frac{\mathrm{tr}\,(W-W_0)\,G\,(W-W_0)^\top}{\mathrm{tr}\,W_0\,G\,W_0^\top}

    Args:
      params: the parameters before pruning.
      pruned: the parameters after pruning, of the same structure and shapes.
      calibration: what `calibrate` returned for ``params``.

    Returns:
      The relative error of each kernel of the calibration, by its name: 0 where nothing changed,
      and 1 where the outputs are gone. The mean over stacked layers.

    Raises:
      TypeError: the parameters are traced.
      ValueError: the parameters do not have the kernels of the calibration.
    """
    changed = leaves_by_name(pruned)
    for name, leaf in changed.items():
        if isinstance(leaf, jax.core.Tracer):
            raise TypeError(f"pruned must hold concrete arrays, outside of jit; {name} is traced")
    errors = {}
    for kernel in kernels_of(params, calibration, None).kernels:
        if kernel.name not in changed or changed[kernel.name].shape != kernel.layout.shape:
            shape = getattr(changed.get(kernel.name), "shape", "nothing")
            raise ValueError(
                f"pruned must have the leaves of params; {kernel.name} must have shape "
                f"{kernel.layout.shape}; got {shape}"
            )
        new = kernel.matrices(changed[kernel.name])
        found = jax.vmap(relative_error)(kernel.matrices(), new, kernel.moments())
        errors[kernel.name] = float(found.mean())
    return errors


def relative_error(weights: Weights, pruned: Weights, gram: Gram) -> Float[Array, ""]:
    """Return the squared change of the outputs over their square, 0 where neither is positive."""
    change = output_energy(pruned - weights, gram)
    energy = output_energy(weights, gram)
    return jnp.where(change > 0, change / jnp.where(energy > 0, energy, 1e-30), 0)


def output_energy(weights: Weights, gram: Gram) -> Float[Array, ""]:
    """Return the mean squared norm of the outputs."""
    return (matmul(weights, gram) * weights).sum()
