"""The rules of decompositions of matrices, which need all entries.

Of parameters they are computed once, as for a spectral norm; of other values they are unsupported.
"""

from __future__ import annotations

from sparsejax.graph._rule import GroupBuilder, Rule

_RULE = Rule(groups=GroupBuilder.unsupported_equation)
RULES = dict.fromkeys(
    (
        "cholesky", "eigh", "householder_product", "lu", "lu_pivots_to_permutation", "qr",
        "svd", "triangular_solve",
    ),
    _RULE,
)  # fmt: skip
