"""Gradient transformations that compose in an ``optax.chain``, and pruning during training."""

from sparsejax._counts import kept_weights
from sparsejax.transforms._ac_dc import ac_dc
from sparsejax.transforms._compressed_forms import compressed_forms
from sparsejax.transforms._compressed_params import compressed_params
from sparsejax.transforms._distributions import Distribution, all_together, erdos_renyi, uniform
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
from sparsejax.transforms._project_sparsity import project_sparsity
from sparsejax.transforms._prune_when_accurate import Pruner, PruningState, prune_when_accurate
from sparsejax.transforms._pruning_methods import (
    adam_fisher_pruning,
    global_magnitude,
    magnitude_pruning,
    random_pruning,
    saliency_pruning,
)
from sparsejax.transforms._pruning_step import prune_state, pruning_step
from sparsejax.transforms._rigl import rigl
from sparsejax.transforms._schedules import PruningSchedule, one_shot, polynomial
from sparsejax.transforms._set import set
from sparsejax.transforms._sparse_method import SparseMethod, SparsifyState, Weights
from sparsejax.transforms._sparsify import sparsify
from sparsejax.transforms._static_sparse import static_sparse
from sparsejax.transforms._straight_through import straight_through, straight_through_decay

__all__ = [
    "Distribution",
    "GatedWeightDecayState",
    "HoldZerosState",
    "LearningCompressionState",
    "Pruner",
    "PruningSchedule",
    "PruningState",
    "SparseMethod",
    "SparsifyState",
    "Weights",
    "ac_dc",
    "adam_fisher_pruning",
    "all_together",
    "compressed_forms",
    "compressed_params",
    "erdos_renyi",
    "exact_gated_decay",
    "gated_weight_decay",
    "global_magnitude",
    "hold_zeros",
    "inverse_sensitivity",
    "kept_weights",
    "learning_compression",
    "magnitude_pruning",
    "masked_params",
    "one_shot",
    "polynomial",
    "project_sparsity",
    "prune_state",
    "prune_when_accurate",
    "pruning_step",
    "random_pruning",
    "reset_decay_schedule",
    "rigl",
    "saliency_pruning",
    "set",
    "set_mask",
    "sparsify",
    "static_sparse",
    "straight_through",
    "straight_through_decay",
    "uniform",
]
