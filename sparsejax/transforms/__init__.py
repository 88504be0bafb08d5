"""How does w move? Gradient transformations that compose in an ``optax.chain``."""

from sparsejax.transforms.learning_compression import (
    LearningCompressionState,
    compressed_params,
    learning_compression,
)

__all__ = ["LearningCompressionState", "compressed_params", "learning_compression"]
