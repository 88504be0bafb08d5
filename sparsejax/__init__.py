"""Sparse neural networks as constrained optimisation, in pure functions for JAX.

``sparsejax.projections`` and ``sparsejax.compression`` solve for the nearest sparse weights;
``sparsejax.learning_compression`` trains towards them in any ``optax.chain``;
``sparsejax.gated_weight_decay`` and ``sparsejax.prune_when_accurate`` shrink and prune what the
loss does not feel, while accuracy holds;
``sparsejax.gates`` puts random gates on the parameters of any network and
``sparsejax.constraints`` trains under a constraint, such as on the gates' expected density;
``sparsejax.tickets`` searches for subnetworks in rounds of training, many in one program;
``sparsejax.inspection`` tells what is left and ``sparsejax.deploy`` makes it a smaller network.
These need jax and optax alone;
``sparsejax.training`` and ``sparsejax.models`` need the ``experiments`` extra and are imported by
name.

Everywhere, ``where`` chooses the leaves that are sparsified: a callable ``(path, leaf) -> bool``
(``path`` as in ``jax.tree_util.tree_map_with_path``) or a pytree of bools (or a prefix of one).
Its default chooses kernels and embeddings, and leaves out biases, scales of normalisations and
other vectors, by the leaves' names and by what stands beside them, stacked layers or not. `chosen`
states the rule, and ``print(sparsejax.chosen(params))`` shows what it chooses and why. For all
leaves with two or more dimensions pass ``where=lambda path, leaf: leaf.ndim >= 2``.

An array that stands at two places of a tree (the same Python object: tied parameters) is counted
once and stays tied. Under ``jit`` each argument is an array of its own and that cannot be seen, so
keep one copy in the tree and use it twice in the function that computes the network.
"""

from sparsejax import (
    compression,
    constraints,
    deploy,
    gates,
    inspection,
    projections,
    tickets,
    transforms,
)
from sparsejax._chosen import chosen
from sparsejax.transforms import (
    compressed_params,
    gated_weight_decay,
    hold_zeros,
    learning_compression,
    prune_when_accurate,
)

__version__ = "0.1.0"

__all__ = [
    "chosen",
    "compressed_params",
    "compression",
    "constraints",
    "deploy",
    "gated_weight_decay",
    "gates",
    "hold_zeros",
    "inspection",
    "learning_compression",
    "projections",
    "prune_when_accurate",
    "tickets",
    "transforms",
]
