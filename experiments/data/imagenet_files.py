"""ImageNet (ILSVRC 2012) as TFDS prepares it, read and decoded without TensorFlow."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from PIL import Image

from experiments.data.specs import DataError

_NAME = "imagenet2012"
_ADVICE = (
    "ImageNet cannot be downloaded without an account: register at image-net.org, download "
    "ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar into a folder MANUAL_DIR and run `tfds "
    "build imagenet2012 --file_format=array_record --manual_dir=MANUAL_DIR --data_dir=DATA_DIR` in "
    "an environment with tensorflow, tensorflow-datasets, importlib_resources, apache-beam and "
    "mlcroissant (reading needs only the second); then name DATA_DIR"
)


class ImageNetSplit:
    """Random access to the examples of a split, which Pillow decodes from the original JPEGs.

    ``split[index]`` is an RGB image and its label. Threads may share a split.

    Args:
      data_dir: the folder in which TFDS has prepared ``imagenet2012`` in array_record files.
      split: any split that TFDS understands, such as ``"train[:1000]"``.

    Raises:
      DataError: ``data_dir`` has no such dataset or split, or an example cannot be decoded; the
        message says how to prepare the dataset, or names the example.
    """

    def __init__(self, data_dir: str | os.PathLike[str], split: str):
        self._source, self._folder = _open(data_dir, split)
        self._split = split

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        name = "?"
        try:
            example = self._source[index]
            name = example["file_name"].decode()
            with Image.open(io.BytesIO(example["image"])) as image:
                return image.convert("RGB"), int(example["label"])
        except Exception as error:  # the readers raise many kinds for damaged files
            raise DataError(
                f"ImageNet: example {index} of {self._split} ({name}) in {self._folder} cannot be "
                f"decoded: {error}"
            ) from error


def _open(data_dir: str | os.PathLike[str], split: str) -> tuple[Any, Path]:
    """Return a random-access source of undecoded examples, and the folder that it reads."""
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
            f"ImageNet: the files in {folder} are not array_record files, the only ones with "
            f"random access. {_ADVICE}"
        ) from error
    except Exception as error:  # an unknown split, or damaged files
        raise DataError(
            f"ImageNet: the split {split!r} in {folder} cannot be read: {error}"
        ) from error
    return source, folder
