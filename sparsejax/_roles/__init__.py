"""The role of each leaf of a tree of parameters: a weight, a bias, a scale or another vector.

Roles follow from the names, the shapes and the neighbours of leaves; `sparsejax.chosen` states the
rule. `_leaf_names` reads names, `_bias_fit` compares shapes, `_biases` finds the kernels of a bias,
`_stacked_layers` finds the leading axes that count stacked layers, and `_roles` decides.
"""

from sparsejax._roles._bias_fit import Fit
from sparsejax._roles._roles import Role, Roles
from sparsejax._roles._stacked_layers import Scope

__all__ = ["Fit", "Role", "Roles", "Scope"]
