r"""Gates: random or deterministic factors z on the parameters of a network, trained with it.

A network under gates computes with :math:`\theta \odot z(\phi)`. `hard_concrete` and `sigmoid`
make a `Gates`, whose functions take and return pytrees; `apply` multiplies the gates into the
parameters. Both take the same arguments to choose what is gated:

- ``where`` chooses the leaves that get gates; by default kernels and embeddings, by the rule of
  `sparsejax.chosen`.
- ``grouping`` decides which weights of a leaf share a gate: `per_weight`, `per_input`, `per_output`
  or any function from the shape of a layer's kernel to the axes along which its gates differ, such
  as ``lambda shape: (0,)`` for the outputs of a kernel [out, in].
- ``tied`` names leaves that share the gates of another leaf. A bias beside a kernel with one gate
  per output is found by its name and shape, so that a closed gate removes the whole unit. Further
  leaves are given as a mapping from the path of the leaf to the path of the gated leaf, with parts
  joined by ``/``: ``{"norm1/scale": "conv1/kernel"}`` for the normalisation after a convolution. A
  leaf mapped to None shares no gates.
- ``stacked_axes`` is the number of leading axes of the gated leaves that are stacked layers, as
  made by ``nn.scan`` or ``jax.vmap``; each layer has gates of its own. It is an integer, a callable
  ``(path, leaf) -> int``, or a pytree of integers that is a prefix of the parameters. By default it
  is inferred: the leading axes that a kernel has in common with its bias, else those that all
  leaves around it have in common; 0 for a kernel by itself.
"""

from sparsejax._tied_gates import broadcast_gates
from sparsejax.gates._apply import apply
from sparsejax.gates._base import Gates, combine
from sparsejax.gates._clip_params import clip_params
from sparsejax.gates._grouping import per_input, per_output, per_weight
from sparsejax.gates._hard_concrete import LOG_ALPHA_RANGE, hard_concrete
from sparsejax.gates._sigmoid import beta_schedule, next_round, sigmoid

__all__ = [
    "LOG_ALPHA_RANGE",
    "Gates",
    "apply",
    "beta_schedule",
    "broadcast_gates",
    "clip_params",
    "combine",
    "hard_concrete",
    "next_round",
    "per_input",
    "per_output",
    "per_weight",
    "sigmoid",
]
