"""What does the network see? Its parameters times random gates that can be trained."""

from sparsejax.gates.apply import apply, spread
from sparsejax.gates.base import Gates, combine
from sparsejax.gates.grouping import per_input, per_output, per_weight
from sparsejax.gates.hard_concrete import LOG_ALPHA_RANGE, hard_concrete
from sparsejax.gates.keep_within import keep_within

__all__ = [
    "LOG_ALPHA_RANGE",
    "Gates",
    "apply",
    "combine",
    "hard_concrete",
    "keep_within",
    "per_input",
    "per_output",
    "per_weight",
    "spread",
]
