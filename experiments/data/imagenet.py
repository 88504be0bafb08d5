"""ImageNet (ILSVRC 2012) as TFDS prepares it, read and decoded without TensorFlow.

The images are the files' own JPEGs; Pillow decodes them.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from experiments.data.imagenet_images import SIZE, evaluation_image, training_image
from experiments.data.specs import DataError

_NAME = "imagenet2012"
_ADVICE = (
    "ImageNet cannot be fetched without an account: register at image-net.org, download "
    "ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar into a folder MANUAL_DIR and run `tfds "
    "build imagenet2012 --file_format=array_record --manual_dir=MANUAL_DIR --data_dir=DATA_DIR` in "
    "an environment with tensorflow, tensorflow-datasets, importlib_resources, apache-beam and "
    "mlcroissant (reading needs none but the second); then name DATA_DIR"
)

Preprocess = Callable[[Image.Image], np.ndarray]
Decoded = Future[tuple[np.ndarray, int]]


class ImageNetBatches:
    """Shuffled, augmented minibatches of ImageNet's training images.

    It stands where `sparsejax.training.Batches` stands for data that fits into memory. The order of
    epoch e is ``numpy.random.default_rng([seed, e]).permutation(n)`` cut into batches (the last
    ``n % batch_size`` images of it sit out that epoch); what is drawn for image i in it (see
    `training_image`) comes from ``default_rng([seed, e, i])``. So a batch depends on the seed and
    the step alone, and resuming needs the step's number and nothing else.

    Several processes form one global batch: each reads and decodes its own contiguous part of it,
    rows ``process_index * batch_size / process_count`` and on.

    Threads decode; while the caller works on a block, they are busy with the next one of the same
    size, so two blocks are in memory. Use it in a ``with`` statement, or call ``close()`` at the
    end.

    Args:
      data_dir: the folder in which TFDS has prepared ``imagenet2012`` in array_record files.
      batch_size: images a step, of all processes together.
      seed: of the shuffle and of the augmentation.
      process_index: of this process, e.g. ``jax.process_index()``.
      process_count: e.g. ``jax.process_count()``.
      workers: threads; default one for each core.

    Attributes:
      examples: images in the training split.
      batch_size: as given.
      steps_per_epoch: whole batches in an epoch.

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
        self._rows = _rows_of_process(batch_size, process_index, process_count)
        if seed < 0:
            raise ValueError(f"seed must be an integer >= 0; got {seed}")
        self._reader = _Reader(data_dir, "train", workers)
        self.examples = len(self._reader)
        if batch_size > self.examples:
            self.close()
            raise ValueError(
                f"batch_size must be from 1 to {self.examples}, the number of examples; "
                f"got {batch_size}"
            )
        self.batch_size = batch_size
        self.steps_per_epoch = self.examples // batch_size
        self._seed = seed
        self._orders: dict[int, np.ndarray] = {}
        self._pending: dict[int, list[Decoded]] = {}

    def block(self, step: int, count: int) -> tuple[dict[str, np.ndarray], None]:
        """The batches of ``count`` steps from ``step`` on.

        Returns:
          ``(arrays, None)``: ``image`` float32 [count, b, 224, 224, 3] and ``label`` int32
          [count, b], where b is this process's part of the batch.

        Raises:
          ValueError: ``step`` or ``count`` is out of range.
          DataError: an image cannot be read; the message names it.
        """
        if step < 0 or count < 1:
            raise ValueError(f"step must be >= 0 and count >= 1; got {step} and {count}")
        this_and_next = range(step, step + 2 * count)
        for other in self._pending.keys() - set(this_and_next):
            for future in self._pending.pop(other):
                future.cancel()
        self._orders = {e: o for e, o in self._orders.items() if e >= step // self.steps_per_epoch}
        for number in this_and_next:
            if number not in self._pending:
                self._pending[number] = self._submit(number)
        arrays = _zeros(count, self._rows.stop - self._rows.start)
        for row, number in enumerate(this_and_next[:count]):
            _fill(arrays["image"][row], arrays["label"][row], self._pending.pop(number))
        return arrays, None

    def close(self) -> None:
        """Stop the threads."""
        self._reader.close()

    def __enter__(self) -> ImageNetBatches:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _submit(self, step: int) -> list[Decoded]:
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch not in self._orders:
            order = np.random.default_rng([self._seed, epoch]).permutation(self.examples)
            self._orders[epoch] = order
        start = position * self.batch_size
        batch = self._orders[epoch][start : start + self.batch_size]

        def augment(index: int) -> Preprocess:
            rng = np.random.default_rng([self._seed, epoch, index])
            return lambda image: training_image(image, rng)

        indices = map(int, batch[self._rows])
        return [self._reader.submit(index, augment(index)) for index in indices]


class ImageNetEvaluation:
    """Batches of a split in its own order, for evaluation: iterate over it as often as needed.

    All batches have one shape, so that a jitted function is compiled once: the last one is filled
    up with black images of weight 0. Sums over ``weight`` are therefore sums over the split. With
    several processes each yields its own contiguous part of every batch, as `ImageNetBatches` does.

    Args:
      data_dir: the folder in which TFDS has prepared ``imagenet2012`` in array_record files.
      batch_size: images a batch, of all processes together.
      split: ``"validation"``, or any other that TFDS understands, such as ``"train[:1000]"``.
      process_index: of this process.
      process_count: of all.
      workers: threads; default one for each core.

    Attributes:
      examples: images in the split.
      batch_size: as given.

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
        self._rows = _rows_of_process(batch_size, process_index, process_count)
        self._reader = _Reader(data_dir, split, workers)
        self.examples = len(self._reader)
        self.batch_size = batch_size

    def __len__(self) -> int:
        """Batches in the split."""
        return -(-self.examples // self.batch_size)

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        """``image`` float32 [b, 224, 224, 3], ``label`` int32 [b] and ``weight`` float32 [b]."""
        pending = self._submit(0)
        for number in range(len(self)):
            ahead = self._submit(number + 1)
            indices = self._indices(number)
            arrays = _zeros(len(indices))
            _fill(arrays["image"], arrays["label"], pending)
            yield arrays | {"weight": (indices < self.examples).astype(np.float32)}
            pending = ahead

    def close(self) -> None:
        """Stop the threads."""
        self._reader.close()

    def __enter__(self) -> ImageNetEvaluation:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _indices(self, batch: int) -> np.ndarray:
        return np.arange(batch * self.batch_size, (batch + 1) * self.batch_size)[self._rows]

    def _submit(self, batch: int) -> list[Decoded]:
        there = [index for index in map(int, self._indices(batch)) if index < self.examples]
        return [self._reader.submit(index, evaluation_image) for index in there]


class _Reader:
    """A split's examples, decoded by threads: Pillow and array_record let go of the GIL."""

    def __init__(self, data_dir: str | os.PathLike[str], split: str, workers: int | None):
        if workers is not None and workers < 1:
            raise ValueError(f"workers must be >= 1, or None for one a core; got {workers}")
        self._source, self._where = _open(data_dir, split)
        self._split = split
        self._pool = ThreadPoolExecutor(workers or os.cpu_count())

    def __len__(self) -> int:
        return len(self._source)

    def submit(self, index: int, preprocess: Preprocess) -> Decoded:
        """A future image and label."""
        return self._pool.submit(self._read, index, preprocess)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _read(self, index: int, preprocess: Preprocess) -> tuple[np.ndarray, int]:
        name = "?"
        try:
            example = self._source[index]
            name = example["file_name"].decode()
            with Image.open(io.BytesIO(example["image"])) as image:
                return preprocess(image.convert("RGB")), int(example["label"])
        except Exception as error:  # whatever the readers make of damaged files
            raise DataError(
                f"ImageNet: example {index} of {self._split} ({name}) in {self._where} cannot be "
                f"decoded: {error}"
            ) from error


def _zeros(*shape: int) -> dict[str, np.ndarray]:
    """Arrays for images and labels of the given leading shape."""
    images = np.zeros((*shape, SIZE, SIZE, 3), np.float32)
    return {"image": images, "label": np.zeros(shape, np.int32)}


def _fill(images: np.ndarray, labels: np.ndarray, futures: Sequence[Decoded]) -> None:
    """Write what has been decoded into the first rows; waits for it."""
    for row, future in enumerate(futures):
        images[row], labels[row] = future.result()


def _rows_of_process(batch_size: int, process_index: int, process_count: int) -> slice:
    """The rows of a global batch that are this process's own."""
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
    own = batch_size // process_count
    return slice(process_index * own, (process_index + 1) * own)


def _open(data_dir: str | os.PathLike[str], split: str) -> tuple[Any, Path]:
    """A random-access source of undecoded examples, and the folder it reads."""
    prepared = Path(data_dir).expanduser().absolute() / _NAME
    versions = {
        tuple(map(int, file.parent.name.split("."))): file.parent
        for file in prepared.glob("*/dataset_info.json")
        if re.fullmatch(r"\d+\.\d+\.\d+", file.parent.name)
    }
    if not versions:
        raise DataError(f"ImageNet: no {prepared}/VERSION/dataset_info.json. {_ADVICE}")
    folder = versions[max(versions)]
    try:
        builder = tfds.builder_from_directory(folder)
        source = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
    except NotImplementedError as error:
        raise DataError(
            f"ImageNet: the files in {folder} are not array_record files, which alone can be read "
            f"in any order. {_ADVICE}"
        ) from error
    except Exception as error:  # an unknown split, or damaged files
        raise DataError(
            f"ImageNet: the split {split!r} in {folder} cannot be read: {error}"
        ) from error
    return source, folder
