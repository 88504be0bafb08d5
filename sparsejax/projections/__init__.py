"""Exact, jittable projections and proximal maps, which answer which theta is nearest to w."""

from sparsejax.projections._blocks import project_blocks
from sparsejax.projections._l0_ball import project_l0_ball
from sparsejax.projections._l1_ball import project_l1_ball
from sparsejax.projections._n_m import project_n_m
from sparsejax.projections._shards import num_entries
from sparsejax.projections._thresholds import hard_threshold, soft_threshold
from sparsejax.projections._top_k_mask import top_k_mask
from sparsejax.projections._units import project_units

__all__ = [
    "hard_threshold",
    "num_entries",
    "project_blocks",
    "project_l0_ball",
    "project_l1_ball",
    "project_n_m",
    "project_units",
    "soft_threshold",
    "top_k_mask",
]
