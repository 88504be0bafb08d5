"""Lottery tickets: rounds of training that find a mask and the weights to rewind to.

A `Method` defines a search: `continuous_sparsification`, `magnitude_pruning`, `random_pruning`,
`stochastic_l0`, or `fixed_mask` for training a ticket. `init_search`, `search_step`, `found_ticket`
and `next_search` run one search round by round; their counterparts for populations run many
searches in one program.
"""

from sparsejax._masks import apply_mask
from sparsejax.tickets._fixed_mask import fixed_mask
from sparsejax.tickets._gated import continuous_sparsification, stochastic_l0
from sparsejax.tickets._magnitude_pruning import magnitude_pruning, random_pruning
from sparsejax.tickets._mask import jaccard, num_nonzero, ones_mask
from sparsejax.tickets._method import Method
from sparsejax.tickets._population import (
    init_population,
    member,
    next_population,
    population_step,
    population_tickets,
    shard_population,
)
from sparsejax.tickets._population_scan import population_scan
from sparsejax.tickets._search import (
    SearchState,
    found_ticket,
    init_search,
    next_search,
    search_step,
)
from sparsejax.tickets._ticket import (
    Ticket,
    check_ticket,
    effective_params,
    fold_scale,
    rewind,
)

__all__ = [
    "Method",
    "SearchState",
    "Ticket",
    "apply_mask",
    "check_ticket",
    "continuous_sparsification",
    "effective_params",
    "fixed_mask",
    "fold_scale",
    "found_ticket",
    "init_population",
    "init_search",
    "jaccard",
    "magnitude_pruning",
    "member",
    "next_population",
    "next_search",
    "num_nonzero",
    "ones_mask",
    "population_scan",
    "population_step",
    "population_tickets",
    "random_pruning",
    "rewind",
    "search_step",
    "shard_population",
    "stochastic_l0",
]
