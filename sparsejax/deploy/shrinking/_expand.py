"""Expansion of a shrunk network to the shapes that it came from."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax._names import leaves_by_name, named_leaves
from sparsejax.deploy._network import Network
from sparsejax.deploy.shrinking._divisors import without_division_by_zero
from sparsejax.deploy.shrinking._shrink import Shrunk
from sparsejax.deploy.shrinking._smaller_function import SmallerFunction


def expand(network: Shrunk) -> Network:
    """Return a network of the original shapes that computes what the smaller one does.

    A network can thus be trained on at the size of what is left of it, and end in the shapes of its
    checkpoints, its masks and its published figures::

        small = shrink(network, images)
        trained = small.with_params(train(small.function, small.params))
        params = expand(trained).params

    Everything that was removed becomes zero. So does a unit of constant output, its bias included:
    the constant stays where `shrink` put it, in the bias above, and the weights that would read the
    unit are zero, too. This needs those weights and biases to be parameters: where the function
    closes over weights that read a constant unit, they still read whatever its unit puts out at
    zero. A unit of zeros must also be finite (nothing divides by its parameters). This runs on
    the host.

    Args:
      network: what `shrink` returned, possibly with other values of its parameters
        (`Network.with_params`).

    Returns:
      The original function with parameters of the original shapes and dtypes. They are arrays of
      JAX, or of NumPy where those of the smaller network are.

    Raises:
      TypeError: ``network`` is not from `shrink`.
      ValueError: its parameters do not have the shapes that `shrink` left; or constants went into
        arrays that the function closes over (such as means of batch normalisation), so that
        parameters alone cannot compute the same; or it divides by parameters of removed units
        that neither zeros nor ones suit.
    """
    if not isinstance(network, Shrunk):
        raise TypeError(f"network must be from shrink; got {type(network).__name__}")
    if network.folded_into_closure:
        raise ValueError(
            "network has constants in arrays that its function closes over, which expanded "
            "parameters would lack; give shrink those arrays among the parameters"
        )
    original, kept = network.original, network.kept
    arrays = leaves_by_name(network.params)
    if arrays.keys() != kept.keys():
        raise ValueError(
            f"network must have the parameters that shrink left, {sorted(kept)}; got "
            f"{sorted(arrays)}"
        )

    def scatter(name: str, leaf: Any) -> np.ndarray:
        small, whole = np.asarray(arrays[name]), np.zeros(leaf.shape, leaf.dtype)
        indices = [
            np.arange(length) if stays is None else stays
            for length, stays in zip(whole.shape, kept[name], strict=True)
        ]
        if small.shape != tuple(map(len, indices)):
            raise ValueError(
                "network must have parameters of the shapes that shrink left; "
                f"{name} has {small.shape}, not {tuple(map(len, indices))}"
            )
        whole[np.ix_(*indices)] = small
        return whole

    named = named_leaves(original.params)
    whole = [scatter(name, leaf) for name, leaf in named]
    smaller = network.function
    if isinstance(smaller, SmallerFunction):
        names = [name for name, _ in named]
        whole = without_division_by_zero(smaller.traced.graph, smaller.plan, whole, names)
    # A module may index its arrays by traced values, which those of NumPy refuse.
    leaves = [
        jnp.asarray(array) if isinstance(arrays[name], jax.Array) else array
        for array, (name, _) in zip(whole, named, strict=True)
    ]
    return original.with_params(jax.tree.unflatten(jax.tree.structure(original.params), leaves))
