"""Sparse neural networks as constrained optimisation, in pure functions for JAX.

- ``sparsejax.projections`` and ``sparsejax.compression`` compute the nearest sparse weights, and
  ``sparsejax.learning_compression`` trains towards them in any ``optax.chain``.
- ``sparsejax.gated_weight_decay`` and ``sparsejax.prune_when_accurate`` shrink and prune the
  weights to which the loss is insensitive, as long as the accuracy stays above a bound.
- ``sparsejax.gates`` multiplies the parameters of any network by random gates, and
  ``sparsejax.constraints`` trains under constraints, such as on the expected density of gates.
- ``sparsejax.tickets`` searches for subnetworks in rounds of training, many in one program.
- ``sparsejax.oneshot`` prunes without training, by the inputs that a few batches give each kernel.
- ``sparsejax.inspection`` reports the weights, units and operations that remain, and
  ``sparsejax.deploy`` makes a smaller network of them.

These need jax, optax and jaxtyping only. ``sparsejax.training`` and ``sparsejax.models`` must be
imported explicitly; the models, and checkpoints and logs of training, need the ``experiments``
extra.

Everywhere, ``where`` chooses the leaves that are sparsified: a callable ``(path, leaf) -> bool``,
with ``path`` as in ``jax.tree_util.tree_map_with_path``, or a pytree of bools or a prefix of one.
The default chooses kernels and embeddings, and leaves out biases, scales of normalisations and
other vectors, for single and for stacked layers. `chosen` states the rule, and
``print(sparsejax.chosen(params))`` shows the choice and the reasons. To choose all leaves with two
or more dimensions, pass ``where=lambda path, leaf: leaf.ndim >= 2``.

An array that occurs at several places of a tree (the same Python object: tied parameters) counts
once and stays tied. Under ``jit`` ties are unknown, since each argument is an array of its own. So
keep one copy in the tree and use it twice in the function that computes the network.
"""

from sparsejax import (
    compression,
    constraints,
    deploy,
    gates,
    inspection,
    oneshot,
    projections,
    tickets,
    transforms,
)
from sparsejax._chosen import chosen
from sparsejax.transforms import (
    compressed_forms,
    compressed_params,
    gated_weight_decay,
    hold_zeros,
    learning_compression,
    prune_when_accurate,
)

__version__ = "0.1.0"

__all__ = [
    "chosen",
    "compressed_forms",
    "compressed_params",
    "compression",
    "constraints",
    "deploy",
    "gated_weight_decay",
    "gates",
    "hold_zeros",
    "inspection",
    "learning_compression",
    "oneshot",
    "projections",
    "prune_when_accurate",
    "tickets",
    "transforms",
]
