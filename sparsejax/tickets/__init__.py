"""Which subnetwork? Rounds of training that find tickets: masks, and weights to rewind to."""

from sparsejax.tickets.family import (
    deal_out,
    family_scan,
    family_step,
    family_tickets,
    init_family,
    member,
    next_family,
)
from sparsejax.tickets.fixed_mask import fixed_mask
from sparsejax.tickets.gated import continuous_sparsification, stochastic_l0
from sparsejax.tickets.magnitude_pruning import magnitude_pruning, random_pruning
from sparsejax.tickets.mask import masked, overlap, remaining, whole_mask
from sparsejax.tickets.method import Method
from sparsejax.tickets.search import (
    SearchState,
    found_ticket,
    init_search,
    next_search,
    search_step,
)
from sparsejax.tickets.ticket import (
    Ticket,
    check_ticket,
    effective_params,
    fold_scale,
    rewound,
)

__all__ = [
    "Method",
    "SearchState",
    "Ticket",
    "check_ticket",
    "continuous_sparsification",
    "deal_out",
    "effective_params",
    "family_scan",
    "family_step",
    "family_tickets",
    "fixed_mask",
    "fold_scale",
    "found_ticket",
    "init_family",
    "init_search",
    "magnitude_pruning",
    "masked",
    "member",
    "next_family",
    "next_search",
    "overlap",
    "random_pruning",
    "remaining",
    "rewound",
    "search_step",
    "stochastic_l0",
    "whole_mask",
]
