"""What does the network see? Its parameters times random gates that can be trained."""

from sparsejax._tied_gates import broadcast_gates
from sparsejax.gates._apply import apply
from sparsejax.gates._base import Gates, combine
from sparsejax.gates._clip_params import clip_params
from sparsejax.gates._grouping import per_input, per_output, per_weight
from sparsejax.gates._hard_concrete import LOG_ALPHA_RANGE, hard_concrete
from sparsejax.gates._sigmoid import next_round, sigmoid, temperature_schedule

__all__ = [
    "LOG_ALPHA_RANGE",
    "Gates",
    "apply",
    "broadcast_gates",
    "clip_params",
    "combine",
    "hard_concrete",
    "next_round",
    "per_input",
    "per_output",
    "per_weight",
    "sigmoid",
    "temperature_schedule",
]
