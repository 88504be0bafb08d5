"""Exact, jittable projections and proximal maps, which answer which theta is nearest to w."""

from sparsejax.projections._binary import project_binary
from sparsejax.projections._blocks import project_blocks
from sparsejax.projections._codebook import project_codebook
from sparsejax.projections._k_means import project_k_means
from sparsejax.projections._l0_ball import project_l0_ball
from sparsejax.projections._l1_ball import project_l1_ball
from sparsejax.projections._low_rank import low_rank_factors, project_low_rank
from sparsejax.projections._n_m import project_n_m
from sparsejax.projections._shards import num_entries
from sparsejax.projections._ternary import project_ternary
from sparsejax.projections._thresholds import hard_threshold, soft_threshold
from sparsejax.projections._top_k_mask import top_k_mask
from sparsejax.projections._units import project_units

__all__ = [
    "hard_threshold",
    "low_rank_factors",
    "num_entries",
    "project_binary",
    "project_blocks",
    "project_codebook",
    "project_k_means",
    "project_l0_ball",
    "project_l1_ball",
    "project_low_rank",
    "project_n_m",
    "project_ternary",
    "project_units",
    "soft_threshold",
    "top_k_mask",
]
