"""C steps whose values share a scale, of all leaves together or of each."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Array, PyTree

from sparsejax import _encoding
from sparsejax._where import everything
from sparsejax.compression._base import Compression, each_leaf, stateless


def scaled_values(project: Callable[..., PyTree], scaled: bool, per_leaf: bool) -> Compression:
    """Return the C step of `project_binary` or `project_ternary`."""

    def nearest(weights: PyTree[Array]) -> PyTree[Array]:
        return project(weights, everything, scaled=scaled)

    return stateless(
        lambda weights, mu: each_leaf(nearest, weights, per_leaf),
        encode=lambda theta: _encoding.quantized(theta, per_leaf),
    )
