"""The compressed weights in an optimizer state, in the forms in which they can be stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from sparsejax._forms import is_form
from sparsejax._states import replace_leaves
from sparsejax._variables import Path, flatten_with_path
from sparsejax.compression import Compression
from sparsejax.transforms._compressed_params import compressed_leaves


def compressed_forms(
    compression: Compression | Sequence[Compression], opt_state: PyTree, params: PyTree[Array]
) -> PyTree:
    """Return ``params`` with the compressed weights in the forms in which they can be stored.

    A quantised leaf becomes a `sparsejax.compression.QuantizedArray` (values and integer codes), a
    kernel of low rank a `LowRankArray` (two factors), a sum a `SumArray`, rounded values a
    `RoundedArray`, groups with a scale a `ScaledArray`. Pruned leaves stay arrays with zeros, and
    so do the leaves that are not compressed. `sparsejax.compression.decode` returns the arrays,
    which are those of `compressed_params` to the bit; kernels of low rank agree with them up to
    rounding.

    `sparsejax.inspection.storage_bits` counts the bits of the result, and
    `sparsejax.deploy.save_sparse` writes it. It runs on the host, outside ``jit``.

    Args:
      compression: the C step of the `learning_compression` in ``opt_state``; of several, a sequence
        in their order in the chain.
      opt_state: an optimizer state as `compressed_params` takes it.
      params: pytree of arrays, the parameters that the state belongs to.

    Returns:
      A tree like ``params``, in which forms replace arrays. Weights that a `hold_zeros` holds are
      zero; a leaf that its form can then no longer give is an array.

    Raises:
      TypeError: an array is traced.
      ValueError: as `compressed_params` raises; there are more or fewer C steps than states; the
        state of one is that of another C step; or an array lies on devices of other processes.

    Example:
      >>> import jax.numpy as jnp
      >>> from sparsejax import compressed_forms, learning_compression
      >>> from sparsejax.compression import quantize
      >>> params = {"kernel": jnp.array([[1.0, 2.0], [5.0, 7.0]])}
      >>> c_step = quantize(2)
      >>> state = learning_compression(c_step, 0.5, 10).init(params)
      >>> kernel = compressed_forms(c_step, state, params)["kernel"]
      >>> kernel.codebook, kernel.codes
      (Array([1.5, 6. ], dtype=float32), Array([[0, 0],
             [1, 1]], dtype=uint8))
    """
    found = compressed_leaves(opt_state, params)
    one = hasattr(compression, "project")
    compressions: Sequence[Any] = [compression] if one else list(compression)
    if len(compressions) != len(found):
        raise ValueError(
            "compression must be one C step for each learning_compression in opt_state, in the "
            f"order of the chain; got {len(compressions)} for {len(found)}"
        )
    forms: dict[Path, Any] = {}
    for c_step, (state, thetas) in zip(compressions, found, strict=True):
        encode = getattr(c_step, "encode", None)
        theta = _with(params, thetas, optax.MaskedNode())
        _check_same(c_step, theta, state.compression)
        encoded = theta if encode is None else encode(theta, state.compression)
        forms.update(flatten_with_path(encoded, is_leaf=is_form))
    return _with(params, forms, ...)


def _check_same(c_step: Compression, theta: PyTree[Array], state: PyTree[Array]) -> None:
    """Check that the state of a C step has the type and the shapes that its ``init`` makes.

    Raises:
      ValueError: it has others.
    """
    expected = jax.eval_shape(c_step.init, theta)

    def shapes(tree: PyTree) -> dict[Path, tuple[int, ...]]:
        return {path: jnp.shape(leaf) for path, leaf in flatten_with_path(tree)}

    if type(state) is not type(expected) or shapes(state) != shapes(expected):
        raise ValueError(
            "compression must be the C step that made the state in opt_state, a "
            f"{type(state).__name__} with leaves of shapes {list(shapes(state).values())}; this C "
            f"step makes a {type(expected).__name__} of {list(shapes(expected).values())}"
        )


def _with(params: PyTree[Array], leaves: dict[Path, Any], others: Any) -> PyTree:
    """Return ``params`` with other leaves; ``...`` keeps all others."""
    return replace_leaves(params, lambda path, w: leaves.get(path, w if others is ... else others))
