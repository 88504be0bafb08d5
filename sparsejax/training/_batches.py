"""Which examples a step sees: a shuffle per epoch that depends on the seed and the epoch alone."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

ArrayData = Mapping[str, np.ndarray]
Block = tuple[Mapping[str, Any], jax.Array | None]


@runtime_checkable
class BatchSource(Protocol):
    """What `fit` asks of data that is not in memory: batches that depend on the step alone.

    ``block(step, count)`` gives numpy arrays [count, rows, ...] by name, and None. The rows are
    those of the batch that this process feeds: all of them in a single process, else the part that
    belongs to its devices, in the order of the mesh.
    """

    batch_size: int
    """Examples a step, in all processes together."""
    steps_per_epoch: int

    def block(self, step: int, count: int) -> Block: ...


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
      sharding: how the examples of a batch are dealt out to the devices of a mesh. Of several
        processes each forms the examples of its own devices and no others.

    Raises:
      ValueError: the arrays differ in length, or there are fewer examples than ``batch_size``.
    """

    def __init__(
        self,
        data: ArrayData,
        batch_size: int,
        seed: int,
        device_bytes: int = 2**31,
        sharding: NamedSharding | None = None,
    ):
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
        self._sharding = stacked(sharding) if sharding is not None else None
        self._on_device = sum(array.nbytes for array in data.values()) <= device_bytes
        if sharding is not None and jax.process_count() > 1:
            self._on_device = False
        self._data: Mapping[str, Any] = dict(data)
        if self._on_device:
            place = sharding and NamedSharding(sharding.mesh, PartitionSpec())
            self._data = jax.device_put(self._data, place)
        self._epoch, self._order = -1, np.empty(0, np.int32)

    def block(self, step: int, count: int) -> Block:
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
            placed = jax.device_put(indices, self._sharding) if self._sharding else indices
            return self._data, jnp.asarray(placed)
        if self._sharding is None:
            return {name: jnp.asarray(array[indices]) for name, array in self._data.items()}, None
        sharding = self._sharding
        return {n: _dealt_out(array, indices, sharding) for n, array in self._data.items()}, None


class PlacedSource:
    """A `BatchSource` whose batches are on the devices.

    Args:
      source: gives the rows of this process.
      sharding: as for `Batches`.
    """

    def __init__(self, source: BatchSource, sharding: NamedSharding | None = None):
        self._source = source
        self._sharding = stacked(sharding) if sharding is not None else None
        self.batch_size, self.steps_per_epoch = source.batch_size, source.steps_per_epoch

    def block(self, step: int, count: int) -> Block:
        """The batches of ``count`` steps from ``step`` on, of shape [count, batch_size, ...]."""
        arrays, _ = self._source.block(step, count)
        if self._sharding is None:
            return jax.tree.map(jnp.asarray, arrays), None
        put = functools.partial(jax.make_array_from_process_local_data, self._sharding)
        return {name: put(array) for name, array in arrays.items()}, None


def _dealt_out(array: np.ndarray, indices: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """The batches on the devices, of which only this process's own are formed here."""

    def rows(part: Any) -> np.ndarray:
        return array[indices[part[:2]]]

    return jax.make_array_from_callback((*indices.shape, *array.shape[1:]), sharding, rows)


def stacked(sharding: NamedSharding) -> NamedSharding:
    """The sharding of a block of batches [count, batch, ...], from that of a batch."""
    return NamedSharding(sharding.mesh, PartitionSpec(None, *sharding.spec))
