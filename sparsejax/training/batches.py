"""Which examples a step sees: a shuffle per epoch that depends on the seed and the epoch alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

ArrayData = Mapping[str, np.ndarray]


class Batches:
    """Shuffled minibatches of arrays that share their first axis.

    The order of epoch e is ``numpy.random.default_rng([seed, e]).permutation(n)`` cut into batches
    (the last ``n % batch_size`` examples of it sit out that epoch), so the batch of any step can be
    formed without forming those before it: resuming needs the step's number and nothing else.

    Args:
      data: arrays of equal length, by name.
      batch_size: examples a step.
      seed: of the shuffle.
      device_bytes: data that takes at most this many bytes is put on the device once and gathered
        there; larger data stays on the host, which sends each batch. The batches are the same.

    Raises:
      ValueError: the arrays differ in length, or there are fewer examples than ``batch_size``.
    """

    def __init__(self, data: ArrayData, batch_size: int, seed: int, device_bytes: int = 2**31):
        lengths = {name: len(array) for name, array in data.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"data must hold arrays of one length; got {lengths}")
        self.examples = next(iter(lengths.values()))
        if not 1 <= batch_size <= self.examples:
            raise ValueError(
                f"batch_size must be from 1 to {self.examples}, the number of examples; "
                f"got {batch_size}"
            )
        self.batch_size = batch_size
        self.steps_per_epoch = self.examples // batch_size
        self._seed = seed
        self._on_device = sum(array.nbytes for array in data.values()) <= device_bytes
        self._data: Mapping[str, Any] = dict(data)
        if self._on_device:
            self._data = jax.device_put(self._data)
        self._epoch, self._order = -1, np.empty(0, np.int32)

    def block(self, step: int, count: int) -> tuple[Mapping[str, jax.Array], jax.Array | None]:
        """The batches of ``count`` steps from ``step`` on, all of one epoch.

        Returns:
          ``(arrays, indices)``: the whole data and int32 indices of shape [count, batch_size] into
          it, or, where the data stays on the host, the batches themselves (arrays of shape
          [count, batch_size, ...]) and None.
        """
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            order = np.random.default_rng([self._seed, epoch]).permutation(self.examples)
            self._epoch, self._order = epoch, order.astype(np.int32)
        stop = (position + count) * self.batch_size
        indices = self._order[position * self.batch_size : stop].reshape(count, self.batch_size)
        if self._on_device:
            return self._data, jnp.asarray(indices)
        return {name: jnp.asarray(array[indices]) for name, array in self._data.items()}, None
