"""The value that the steps of this room take and return."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax._forms import decode, is_form
from sparsejax._where import PyTree


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Network:
    """A pure function together with its parameters.

    `shrink`, `expand` and `compile_sparse` take a network and return one with the same outputs, and
    each export takes a network, so that steps follow one another::

        network = Network(forward, params)
        small = shrink(network, images)
        fast = compile_sparse(small, images)
        logits = fast(images)

    A network is not a pytree: ``jax.grad`` and the like are applied to its function and its
    parameters. ``jax.jit(network)`` compiles it with its parameters as constants.
    """

    function: Callable[..., PyTree]
    """``function(params, *inputs)``, pure, as it is used for inference."""
    params: PyTree
    """Pytree of arrays, zero where pruned; or with forms of `sparsejax.compressed_forms`, of which
    the function gets the arrays."""

    has_params: ClassVar[bool] = True
    """Whether ``params`` are all parameters; no if they are constants of ``function``."""

    def __call__(self, *inputs: PyTree) -> PyTree:
        """Compute ``function(params, *inputs)``; arrays of NumPy become JAX's."""
        params = jax.tree.map(
            lambda leaf: jnp.asarray(leaf) if isinstance(leaf, np.ndarray) else leaf,
            decode(self.params),
        )
        return self.function(params, *inputs)

    def with_params(self, params: PyTree) -> Self:
        """Return the same network with other parameters of the same shapes."""
        return dataclasses.replace(self, params=params)

    def __repr__(self) -> str:
        leaves = jax.tree.leaves(self.params, is_leaf=is_form)
        size = sum(getattr(leaf, "size", 1) for leaf in leaves)
        return f"{type(self).__name__}({size:,} parameters in {len(leaves)} arrays)"


def check_network(network: Any, step: str, needs_params: bool = True) -> None:
    """Refuse an argument ``network`` with which ``step`` cannot go on.

    Args:
      network: the argument.
      step: name of the function that was called.
      needs_params: whether the parameters must be arrays rather than constants of the function.

    Raises:
      TypeError: ``network`` is not a `Network`.
      ValueError: it has its parameters as constants.
    """
    if not isinstance(network, Network):
        raise TypeError(
            "network must be a sparsejax.deploy.Network, such as Network(function, params); got "
            f"{type(network).__name__}"
        )
    if needs_params and not network.has_params:
        raise ValueError(
            f"network must have parameters for {step}; compile_sparse has made them constants of a "
            f"program for this machine. Call {step} with the network that was compiled"
        )
