"""The sensitivity of the loss to outputs of kernels, from squared gradients of their weights."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from sparsejax._misfit import few
from sparsejax._names import leaves_by_name
from sparsejax._tree_layers import is_floating
from sparsejax._where import is_function
from sparsejax.oneshot._calibration import KernelLayout
from sparsejax.oneshot._kernels import Kernel
from sparsejax.oneshot._method import Gram, Weights

_LEAST_RATIO = 1e-8


def output_sensitivity(squares: Weights, gram: Gram) -> Float[Array, " outputs"]:
    r"""Compute the sensitivity of the loss to each output of a kernel.

    .. math:: S_o = \sum_n \Big(\frac{\partial L}{\partial y_{no}}\Big)^2
              = \frac{\sum_i \overline{(\partial L / \partial W_{oi})^2}}{\sum_i G_{ii}}

    A change of the outputs y = W x then costs the loss about :math:`\tfrac12 \sum_o S_o\,
    \overline{\delta y_o^2}`, up to a factor that all kernels share. The second equation holds if
    the rows n of a batch are uncorrelated, and inputs independent of the gradients of outputs.

    Args:
      squares: the mean over batches of the squared gradient of the weights.
      gram: the moments of the inputs.

    Returns:
      The sensitivities :math:`S_o`; they are 0 if all inputs are 0.

    References:
      Martens & Grosse, Optimizing neural networks with Kronecker-factored approximate curvature,
      ICML 2015.
    """
    energy = jnp.trace(gram)
    return jnp.where(energy > 0, squares.sum(1) / jnp.where(energy > 0, energy, 1), 0)


class SquaredGradients(NamedTuple):
    """The mean squared gradients of kernels."""

    leaves: dict[str, Any]
    """For each kernel an array of its shape, by the kernel's name."""
    largest: float
    """The largest of all entries."""

    def felt(
        self, kernel: Kernel, moments: Float[Array, "batch inputs inputs"]
    ) -> Float[Array, "batch outputs"]:
        """Return how much the loss feels the outputs of each matrix of a kernel.

        The squared gradients are taken in units of the largest entry of all kernels, since their
        products might underflow.

        Args:
          kernel: the kernel.
          moments: the moments of its inputs, for each matrix.
        """
        squares = kernel.matrices(self.leaves[kernel.name]) / self.largest
        felt: jax.Array = jax.vmap(output_sensitivity)(squares, moments)
        return felt


def output_scales(felt: Float[Array, "batch outputs"]) -> Float[Array, "batch outputs"]:
    r"""Return by what the errors of outputs are multiplied while a matrix is pruned.

    .. math:: s_o = \Big(\frac{S_o}{\overline{S}}\Big)^{1/4}

    so that squared errors count by the square root of what the loss feels. By all of it would be
    right for small errors; those of pruned outputs are not small, and outputs that lose nearly all
    weights cost more than the second order says.

    Args:
      felt: :math:`S_o` of each matrix.

    Returns:
      The scales, at least 0.01; they are 1 where the loss feels no output of a matrix.
    """
    mean = felt.mean(1, keepdims=True)
    ratio = jnp.where(mean > 0, felt / jnp.where(mean > 0, mean, 1), 1)
    return jnp.maximum(ratio, _LEAST_RATIO) ** 0.25


def check_squared_gradients(
    squared_gradients: PyTree, layouts: Mapping[str, KernelLayout]
) -> SquaredGradients:
    """Check squared gradients, and return those of the kernels.

    Args:
      squared_gradients: a tree that has a leaf for each kernel, and may have others.
      layouts: the layouts of the kernels by their names.

    Raises:
      TypeError: it is a function, or a leaf is not floating point.
      ValueError: a kernel has none, or one of another shape; there are NaN, infinite or negative
        entries; or all of them are 0.

    Warns:
      UserWarning: all squared gradients of a matrix are 0. The line that is named is the one that
        called the caller.
    """
    if is_function(squared_gradients):
        raise TypeError(
            "squared_gradients must be a tree like params, such as what "
            "sparsejax.oneshot.squared_gradients(loss, params, batches) returns; got "
            f"{squared_gradients!r}"
        )
    found, leaves, most = leaves_by_name(squared_gradients), {}, {}
    for name, layout in layouts.items():
        if name not in found:
            raise ValueError(
                "squared_gradients must have the leaves of params that are kernels; it has none "
                f"for {name or 'params'}, but {few(list(found)) or 'no leaves'}"
            )
        leaf, label = found[name], name or "its leaf"
        if not is_floating(leaf):
            kind = getattr(leaf, "dtype", type(leaf).__name__)
            raise TypeError(f"squared_gradients must hold floating-point arrays; {label} is {kind}")
        if np.shape(leaf) != layout.shape:
            raise ValueError(
                f"squared_gradients must have the shapes of params; {label} must have shape "
                f"{layout.shape}; got {np.shape(leaf)}"
            )
        if not bool(((leaf >= 0) & (leaf < np.inf)).all()):
            raise ValueError(
                "squared_gradients must be finite and at least 0; there are NaN, infinite or "
                f"negative entries at {label}"
            )
        leaves[name] = leaf
        most[name] = np.ravel(leaf.max((*layout.output_axes, *layout.input_axes))).astype(float)
    largest, tiny = max(own.max() for own in most.values()), float(np.finfo(np.float32).tiny)
    if largest < tiny:
        raise ValueError(
            "squared_gradients must be positive somewhere, or no weight is better than another; "
            f"the largest entry of {few(list(leaves))} is {largest:g}"
        )
    for name, own in most.items():
        if zeros := int((own < largest * tiny).sum()):
            which = f"{zeros} of the {len(own)} matrices of " if zeros < len(own) else ""
            warnings.warn(
                f"the squared gradients of {which}{name or 'params'} are 0, or vanish beside the "
                "largest of all kernels; the weights there are pruned first, usually all of them. "
                "Leave the kernel out by where=, or compute squared gradients on batches that "
                "reach it",
                UserWarning,
                stacklevel=3,
            )
    return SquaredGradients(leaves, float(largest))
