"""Codebooks and their sizes: checks, and the bits of a code."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax import _checks
from sparsejax._dtypes import at_least_float32

MOST_VALUES = 2**16


def check_k(k: int) -> int:
    """``k`` as a Python integer in range."""
    return _checks.python_integer("k", k, 1, MOST_VALUES)


def bits_for(count: int) -> int:
    """Return the bits that tell ``count`` things apart."""
    return max(count - 1, 0).bit_length()


def check_codebook(codebook: jax.Array) -> jax.Array:
    """The codebook in rising order, float32 or wider; raises ValueError if it is none."""
    values = jnp.asarray(codebook)
    allowed = "codebook must be a vector of one or more finite values"
    if values.ndim != 1 or not values.size:
        raise ValueError(f"{allowed}; got shape {values.shape}")
    known = _checks.known(values)
    if known is not None and not np.isfinite(known.astype(np.float64)).all():
        raise ValueError(f"{allowed}; got {known}")
    return jnp.sort(values.astype(at_least_float32(values)))
