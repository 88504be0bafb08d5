"""The networks of the papers, in Flax NNX. Needs the ``experiments`` extra."""

from sparsejax.models.lenet300 import LENET300_LAYERS, LeNet300

__all__ = ["LENET300_LAYERS", "LeNet300"]
