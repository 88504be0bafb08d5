"""Gradient transformations that compose in an ``optax.chain``, and pruning during training."""

from sparsejax.transforms._compressed_forms import compressed_forms
from sparsejax.transforms._compressed_params import compressed_params
from sparsejax.transforms._gated_weight_decay import (
    GatedWeightDecayState,
    exact_gated_decay,
    gated_weight_decay,
    inverse_sensitivity,
    reset_decay_schedule,
)
from sparsejax.transforms._hold_zeros import hold_zeros, masked_params, set_mask
from sparsejax.transforms._learning_compression import (
    LearningCompressionState,
    learning_compression,
)
from sparsejax.transforms._masks import HoldZerosState
from sparsejax.transforms._prune_when_accurate import Pruner, PruningState, prune_when_accurate
from sparsejax.transforms._pruning_step import prune_state, pruning_step

__all__ = [
    "GatedWeightDecayState",
    "HoldZerosState",
    "LearningCompressionState",
    "Pruner",
    "PruningState",
    "compressed_forms",
    "compressed_params",
    "exact_gated_decay",
    "gated_weight_decay",
    "hold_zeros",
    "inverse_sensitivity",
    "learning_compression",
    "masked_params",
    "prune_state",
    "prune_when_accurate",
    "pruning_step",
    "reset_decay_schedule",
    "set_mask",
]
