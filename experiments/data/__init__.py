"""MNIST, Fashion-MNIST and CIFAR-10 as arrays, prepared once by TFDS and then memory-mapped."""

from experiments.data.load import Dataset, Split, load
from experiments.data.specs import SPECS, DataError
from experiments.data.splits import stratified_holdout

__all__ = ["SPECS", "DataError", "Dataset", "Split", "load", "stratified_holdout"]
