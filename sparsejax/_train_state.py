"""The state that every training step takes and returns."""

from __future__ import annotations

from typing import NamedTuple

import jax
from jaxtyping import Int, PyTree


class TrainState(NamedTuple):
    """Everything that a training step changes, as one pytree of arrays.

    One type serves every step: `make_step`, ``constrained_step`` and ``search_step``. The parts
    that only some methods need are None, and so no leaves, in all other states. Set such a part
    with ``_replace``::

        state = init_state(params, optimizer, key)._replace(pruning=pruner.init(params))

    Attributes:
      step: an int32 scalar, the number of steps taken. With the seed of the batches it determines
        the epoch, the position in it and the batch.
      params: the parameters that are trained, any pytree of arrays.
      opt_state: the state of the optimizer.
      key: a PRNG key, typed or raw. Step t uses ``jax.random.fold_in(key, t)``.
      statistics: the running statistics of a network that has some, such as those of batch
        normalisation.
      pruning: the state of a pruner (``sparsejax.transforms.PruningState``).
      search: what a search for tickets carries (``sparsejax.tickets.SearchState``).
    """

    step: Int[jax.Array, ""]
    params: PyTree
    opt_state: PyTree
    key: jax.Array
    statistics: PyTree = None
    pruning: PyTree = None
    search: PyTree = None
