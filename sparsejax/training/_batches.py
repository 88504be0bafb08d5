"""The examples of a step: a shuffle per epoch that depends on the seed and the epoch alone."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Int

ArrayData = Mapping[str, np.ndarray]
"""A dataset as arrays in memory, of equal length: ``{"image": ..., "label": ...}``."""
Block = tuple[Mapping[str, Any], jax.Array | None]


@runtime_checkable
class BatchSource(Protocol):
    """Batches of data that is not in memory, each of which depends on the step alone.

    ``block(step, count)`` returns ``(arrays, None)``: numpy arrays [count, rows, ...] by name. The
    rows are those of the batch that this process feeds: all of them in a single process, else the
    part that belongs to its devices, in the order of the mesh. So resuming needs the number of the
    step and nothing else.

    Attributes:
      batch_size: examples per step, in all processes together.
      steps_per_epoch: whole batches in an epoch. A block lies within one epoch.
    """

    batch_size: int
    steps_per_epoch: int

    def block(self, step: int, count: int) -> Block:
        """Return the batches of ``count`` steps from ``step`` on, all of one epoch."""
        ...


class Batches:
    """Shuffled minibatches of arrays in memory that share their first axis.

    The order of epoch e is ``numpy.random.default_rng([seed, e]).permutation(n)``, cut into
    batches; the last ``n % batch_size`` examples of it are left out of that epoch. So the batch of
    any step is formed without those before it, and resuming needs the number of the step and
    nothing else.

    Args:
      data: arrays [n, ...] by name.
      batch_size: examples per step, over all devices together.
      seed: of the shuffle.
      device_bytes: data of at most this many bytes is put on the device once and gathered there;
        larger data stays on the host, which sends each batch. The batches are the same.

    Attributes:
      examples: n.
      steps_per_epoch: whole batches in an epoch.

    Raises:
      TypeError: ``data`` is no mapping.
      ValueError: the arrays differ in length, or there are fewer examples than ``batch_size``.
    """

    def __init__(self, data: ArrayData, batch_size: int, seed: int = 0, device_bytes: int = 2**31):
        if not isinstance(data, Mapping):
            raise TypeError(
                "data must be a mapping of arrays by name, such as {'image': images, 'label': "
                f"labels}}; got {type(data).__name__}"
            )
        lengths = {name: len(array) for name, array in data.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"data must hold arrays of one length; got {lengths}")
        self.examples = next(iter(lengths.values()))
        if not 1 <= batch_size <= self.examples:
            raise ValueError(
                f"batch_size must be from 1 to {self.examples}, the number of examples; "
                f"got {batch_size}"
            )
        self.data, self.batch_size = data, batch_size
        self.steps_per_epoch = self.examples // batch_size
        self.fits_on_device = sum(array.nbytes for array in data.values()) <= device_bytes
        self._seed = seed
        self._epoch, self._order = -1, np.empty(0, np.int32)

    def indices(self, step: int, count: int) -> Int[np.ndarray, "count batch_size"]:
        """Return int32 indices [count, batch_size] of the examples of steps in one epoch."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            order = np.random.default_rng([self._seed, epoch]).permutation(self.examples)
            self._epoch, self._order = epoch, order.astype(np.int32)
        stop = (position + count) * self.batch_size
        return self._order[position * self.batch_size : stop].reshape(count, self.batch_size)

    def block(self, step: int, count: int) -> Block:
        """Return the batches of ``count`` steps from ``step`` on, as a `BatchSource` does."""
        indices = self.indices(step, count)
        return {name: np.asarray(array)[indices] for name, array in self.data.items()}, None


class DeviceBatches:
    """`Batches` whose data is on the devices, where each step gathers its examples.

    ``block`` returns the whole data and int32 indices [count, batch_size] into it.
    """

    def __init__(self, batches: Batches, sharding: NamedSharding | None):
        self._batches = batches
        self._sharding = stacked(sharding) if sharding is not None else None
        self.batch_size, self.steps_per_epoch = batches.batch_size, batches.steps_per_epoch
        replicated = sharding and NamedSharding(sharding.mesh, PartitionSpec())
        self._data = jax.device_put(dict(batches.data), replicated)

    def block(self, step: int, count: int) -> Block:
        indices = self._batches.indices(step, count)
        return self._data, jnp.asarray(jax.device_put(indices, self._sharding))


class HostBatches:
    """Batches that the host sends to the devices, arrays [count, batch_size, ...]."""

    def __init__(self, source: Batches | BatchSource, sharding: NamedSharding | None):
        self._source = source
        self._sharding = stacked(sharding) if sharding is not None else None
        self.batch_size, self.steps_per_epoch = source.batch_size, source.steps_per_epoch

    def block(self, step: int, count: int) -> Block:
        if self._sharding is None:
            arrays, _ = self._source.block(step, count)
            return jax.tree.map(jnp.asarray, arrays), None
        if isinstance(self._source, Batches):
            # Of several processes each forms the examples of its own devices and no others.
            indices, sharding = self._source.indices(step, count), self._sharding
            data = self._source.data
            return {name: _sent(array, indices, sharding) for name, array in data.items()}, None
        arrays, _ = self._source.block(step, count)
        put = functools.partial(jax.make_array_from_process_local_data, self._sharding)
        return {name: put(array) for name, array in arrays.items()}, None


def placed(batches: Batches | BatchSource, sharding: NamedSharding | None) -> BatchSource:
    """The batches on the devices; ``sharding`` says how the examples of a batch are sharded."""
    alone = sharding is None or jax.process_count() == 1
    if isinstance(batches, Batches) and batches.fits_on_device and alone:
        return DeviceBatches(batches, sharding)
    return HostBatches(batches, sharding)


def _sent(array: np.ndarray, indices: np.ndarray, sharding: NamedSharding) -> jax.Array:
    def rows(part: Any) -> Any:
        return array[indices[part[:2]]]

    return jax.make_array_from_callback((*indices.shape, *array.shape[1:]), sharding, rows)


def stacked(sharding: NamedSharding) -> NamedSharding:
    """The sharding of a block of batches [count, batch, ...], from that of a batch."""
    return NamedSharding(sharding.mesh, PartitionSpec(None, *sharding.spec))
