"""The C step with an exact budget for the number of non-zero weights."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Array, ArrayLike, Float, Integer, PyTree

from sparsejax import _encoding
from sparsejax._codebooks import check_k
from sparsejax._dtypes import at_least_float32
from sparsejax._where import everything
from sparsejax._words import count_words
from sparsejax.compression._base import Compression, check_weights
from sparsejax.projections import num_entries, project_k_means, project_l0_ball

_ROUNDED = ("float16", "bfloat16")


class L0BallState(NamedTuple):
    """State of `l0_ball`."""

    threshold: Float[Array, ""]
    """The threshold of the last C step, at which the next search begins; 0 before the first."""
    codebook: Float[Array, " k"] | None = None
    """The values that the kept weights take, where ``values`` says how many."""


def l0_ball(
    kappa: Integer[ArrayLike, ""],
    *,
    values: str | int | None = None,
    specs: PyTree[PartitionSpec] | None = None,
) -> Compression:
    r"""C step with at most ``kappa`` non-zero weights over all leaves together.

    .. math:: \min_\theta \tfrac{\mu}{2}\|w-\theta\|_2^2 \;\text{s.t.}\; \|\theta\|_0\le\kappa
              \quad\Rightarrow\quad \theta = \operatorname{top}_\kappa(w)

    Args:
      kappa: integer scalar in ``[0, n]``, where ``n`` is the number of weights in all leaves; may
        be traced, and a traced value is clipped to that range; beyond 2**31 - 1 as a pair, see
        `sparsejax.projections.project_l0_ball`.
      values: what becomes of the kept weights: None keeps them exactly; ``"float16"`` or
        ``"bfloat16"`` rounds them to that dtype; a Python integer k in ``[1, 2**16]`` gives them k
        values, by Lloyd's iteration as in `quantize` with ``exact=False``.
      specs: the sharding of the leaves inside ``jax.shard_map`` or ``jax.pmap``, as in
        `sparsejax.projections.project_l0_ball`.

    Returns:
      A `Compression` with state `L0BallState`.

    Raises:
      TypeError: ``kappa`` is not a number; in ``init``: a leaf is not floating point.
      ValueError: ``kappa`` is negative or a float, or ``values`` is none of the above; in ``init``:
        ``kappa`` exceeds the number of weights, or the weights hold NaN.

    References:
      Carreira-Perpinan and Idelbayev, "Learning-compression" algorithms for neural net pruning,
      CVPR 2018.

    Example:
      >>> import jax.numpy as jnp
      >>> from sparsejax.compression import l0_ball
      >>> weights = jnp.array([3.0, 1.0, 2.0])
      >>> c_step = l0_ball(kappa=2)
      >>> theta, _ = c_step.project(weights, 1.0, c_step.init(weights))
      >>> theta
      Array([3., 0., 2.], dtype=float32)
    """
    count_words("kappa", kappa)
    if isinstance(values, np.integer):
        values = int(values)
    if values is not None and not isinstance(values, int) and values not in _ROUNDED:
        raise ValueError(f"values must be None, one of {_ROUNDED} or a number; got {values!r}")
    k = check_k(values) if isinstance(values, int) else None
    rounded = jnp.dtype(values) if isinstance(values, str) else None

    def quantised(
        kept: PyTree[Array], codebook: Float[Array, " k"] | None
    ) -> tuple[PyTree[Array], Float[Array, " k"] | None]:
        if rounded is not None:
            return jax.tree.map(lambda w: w.astype(rounded).astype(w.dtype), kept), None
        if k is None:
            return kept, None
        theta, found = project_k_means(
            kept, k, everything, exact=False, zeros=False, warm_start=codebook, specs=specs,
            with_codebook=True,
        )  # fmt: skip
        return theta, found

    def init(weights: PyTree[Array]) -> L0BallState:
        threshold = initial_threshold(kappa, weights, specs)
        if k is None:
            return L0BallState(threshold)
        kept, threshold = keep(weights, kappa, threshold, specs)
        return L0BallState(threshold, quantised(kept, None)[1])

    def project(
        weights: PyTree[Array], mu: Float[ArrayLike, ""], state: L0BallState
    ) -> tuple[PyTree[Array], L0BallState]:
        del mu  # the nearest point of a set does not depend on the weight of the distance
        kept, threshold = keep(weights, kappa, state.threshold, specs)
        theta, codebook = quantised(kept, state.codebook)
        return theta, L0BallState(threshold, codebook)

    def encode(theta: PyTree[Array], state: L0BallState) -> PyTree:
        del state  # the values say all of it
        if rounded is not None:
            return _encoding.rounded(theta, rounded)
        return theta if k is None else _encoding.quantized(theta)

    return Compression(init, project, encode)


def initial_threshold(
    kappa: Integer[ArrayLike, ""], weights: PyTree[Array], specs: PyTree[PartitionSpec] | None
) -> Float[Array, ""]:
    """Return a threshold of 0 in the dtype of the weights' thresholds.

    Raises:
      TypeError: ``kappa`` is not a number, or a leaf is not floating point.
      ValueError: ``kappa`` is not an integer in ``[0, n]``, or a concrete leaf holds NaN.
    """
    check_weights(weights)
    total = num_entries(weights, everything, specs=specs)
    count_words("kappa", kappa, total)
    return jnp.zeros((), at_least_float32(*jax.tree.leaves(weights)))


def keep(
    weights: PyTree[Array],
    kappa: Integer[ArrayLike, ""],
    threshold: Float[Array, ""],
    specs: PyTree[PartitionSpec] | None,
) -> tuple[PyTree[Array], Float[Array, ""]]:
    """Keep the ``kappa`` largest magnitudes, with a search from the last threshold."""
    return project_l0_ball(
        weights, kappa, everything, specs=specs, warm_start=threshold, with_threshold=True
    )
