"""Batches of ImageNet (ILSVRC 2012), which Grain reads from disk."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import grain
import numpy as np
from PIL import Image

from experiments.data.imagenet_files import ImageNetSplit
from experiments.data.imagenet_images import SIZE, evaluation_image, training_image

Example = dict[str, Any]


class ImageNetBatches:
    """Shuffled, augmented minibatches of ImageNet's training images; a `BatchSource` for `fit`.

    Every epoch is a new permutation of the images, cut into batches; its last ``n % batch_size``
    images are left out. The permutation depends on ``seed`` and the epoch, the augmentation of an
    image (see `training_image`) on ``seed`` and its position among all images shown. A batch
    therefore depends on the seed and the step alone, and resuming needs only the step.

    Several processes form one global batch: each reads and decodes its own contiguous rows of it,
    ``process_index * batch_size / process_count`` and on.

    While the caller works on a block, threads decode the next block of the same size. Use this in
    a ``with`` statement, or call ``close()`` at the end.

    Args:
      data_dir: the folder in which TFDS has prepared ``imagenet2012`` in array_record files.
      batch_size: images per step, over all processes together.
      seed: seed of the shuffle and the augmentation, from 0 to 2**32 - 1.
      process_index: index of this process, e.g. ``jax.process_index()``.
      process_count: number of processes, e.g. ``jax.process_count()``.
      workers: number of threads; defaults to one per core.

    Attributes:
      examples: number of images in the training split.
      batch_size: as given.
      steps_per_epoch: number of whole batches in an epoch.

    Raises:
      ValueError: an argument is out of range.
      DataError: ``data_dir`` has no such dataset; the message says how to prepare it.
    """

    def __init__(
        self,
        data_dir: str | os.PathLike[str],
        batch_size: int,
        seed: int,
        *,
        process_index: int = 0,
        process_count: int = 1,
        workers: int | None = None,
    ):
        _check(batch_size, process_index, process_count, workers)
        if not 0 <= seed < 2**32:
            raise ValueError(f"seed must be an integer from 0 to 2**32 - 1; got {seed}")
        split = ImageNetSplit(data_dir, "train")
        self.examples = len(split)
        if batch_size > self.examples:
            raise ValueError(
                f"batch_size must be from 1 to {self.examples}, the number of examples; "
                f"got {batch_size}"
            )
        self.batch_size = batch_size
        self.steps_per_epoch = self.examples // batch_size
        order = grain.MapDataset.source(split).seed(seed).shuffle()
        shown = order[: self.steps_per_epoch * batch_size].random_map(_training_example)
        rows = _ProcessRows(shown, batch_size, process_index, process_count)
        self._rows, self._rows_per_step = rows.repeat(), batch_size // process_count
        self._workers = workers
        self._iterator: Any = None  # a Grain iterator, from the first block on
        self._next_step, self._prefetched = -1, 0

    def block(self, step: int, count: int) -> tuple[dict[str, np.ndarray], None]:
        """Return the batches of ``count`` steps from ``step`` on.

        Returns:
          ``(arrays, None)``: ``image`` float32 [count, b, 224, 224, 3] and ``label`` int32
          [count, b], where b is the number of this process's rows of a batch.

        Raises:
          ValueError: ``step`` or ``count`` is out of range.
          DataError: an image cannot be read; the message names it.
        """
        if step < 0 or count < 1:
            raise ValueError(f"step must be >= 0 and count >= 1; got {step} and {count}")
        rows = count * self._rows_per_step
        if step != self._next_step or rows > self._prefetched:
            self.close()
            rest = self._rows[step * self._rows_per_step :]
            self._iterator, self._prefetched = _iterate(rest, rows, self._workers), rows
        self._next_step = -1  # if an image cannot be read, the next call starts afresh
        examples = list(itertools.islice(self._iterator, rows))
        self._next_step = step + count
        arrays = _stack(examples)
        return {n: a.reshape(count, -1, *a.shape[1:]) for n, a in arrays.items()}, None

    def close(self) -> None:
        """Stop the threads."""
        if self._iterator is not None:
            self._iterator.close()
            self._iterator, self._next_step = None, -1

    def __enter__(self) -> ImageNetBatches:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class ImageNetEvaluation:
    """Batches of a split in its own order, for evaluation; it can be iterated over repeatedly.

    All batches have the same shape, so that a jitted function is compiled once: the last one is
    padded with black images of weight 0. Sums over ``weight`` are therefore sums over the split.
    Each of several processes yields its own contiguous rows of every batch, as `ImageNetBatches`.

    Args:
      data_dir: the folder in which TFDS has prepared ``imagenet2012`` in array_record files.
      batch_size: images per batch, over all processes together.
      split: ``"validation"``, or any other that TFDS understands, such as ``"train[:1000]"``.
      process_index: index of this process.
      process_count: number of processes.
      workers: number of threads; defaults to one per core.

    Attributes:
      examples: number of images in the split.

    Raises:
      ValueError: an argument is out of range.
      DataError: ``data_dir`` has no such dataset or split; while iterating, an image cannot be
        read.
    """

    def __init__(
        self,
        data_dir: str | os.PathLike[str],
        batch_size: int,
        *,
        split: str = "validation",
        process_index: int = 0,
        process_count: int = 1,
        workers: int | None = None,
    ):
        _check(batch_size, process_index, process_count, workers)
        self._split = ImageNetSplit(data_dir, split)
        self.examples = len(self._split)
        self._batches = -(-self.examples // batch_size)
        padded = grain.MapDataset.range(self._batches * batch_size).map(self._example)
        self._rows = _ProcessRows(padded, batch_size, process_index, process_count)
        self._rows_per_batch, self._workers = batch_size // process_count, workers

    def __len__(self) -> int:
        """Number of batches in the split."""
        return self._batches

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        """Yield ``image`` float32 [b, 224, 224, 3], ``label`` int32 and ``weight`` float32 [b]."""
        with closing(_iterate(self._rows, self._rows_per_batch, self._workers)) as examples:
            for _ in range(len(self)):
                yield _stack(list(itertools.islice(examples, self._rows_per_batch)))

    def _example(self, index: int) -> Example:
        if index < self.examples:
            image, label = self._split[index]
            shown = evaluation_image(image)
        else:
            shown, label = np.zeros((SIZE, SIZE, 3), np.float32), 0
        return {
            "image": shown,
            "label": np.int32(label),
            "weight": np.float32(index < self.examples),
        }


class _ProcessRows(grain.MapDataset):
    """The rows that one process forms, of the batches into which a dataset is cut."""

    def __init__(
        self, dataset: grain.MapDataset, batch_size: int, process_index: int, process_count: int
    ):
        super().__init__(dataset)
        self._dataset, self._batch_size = dataset, batch_size
        self._own = batch_size // process_count
        self._first = process_index * self._own

    def __len__(self) -> int:
        return len(self._dataset) // self._batch_size * self._own

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        batch, row = divmod(index, self._own)
        return self._dataset[batch * self._batch_size + self._first + row]


def _training_example(example: tuple[Image.Image, int], rng: np.random.Generator) -> Example:
    image, label = example
    return {"image": training_image(image, rng), "label": np.int32(label)}


def _iterate(
    dataset: grain.MapDataset, prefetched: int, workers: int | None
) -> grain.DatasetIterator:
    """Iterate over a dataset while threads decode the examples that follow."""
    threads = workers or os.cpu_count() or 1
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetched)
    return iter(dataset.to_iter_dataset(options))


def _stack(examples: list[Example]) -> dict[str, np.ndarray]:
    return {name: np.stack([example[name] for example in examples]) for name in examples[0]}


def _check(batch_size: int, process_index: int, process_count: int, workers: int | None) -> None:
    if not 0 <= process_index < process_count:
        raise ValueError(
            f"process_index must be from 0 to process_count - 1 = {process_count - 1}; "
            f"got {process_index}"
        )
    if batch_size < 1 or batch_size % process_count:
        raise ValueError(
            f"batch_size must be a positive multiple of process_count = {process_count}; "
            f"got {batch_size}"
        )
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be >= 1, or None for one per core; got {workers}")
