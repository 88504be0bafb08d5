"""Integer keys that rank magnitudes: the bit pattern of abs(w) increases with abs(w)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


class KeyFormat(NamedTuple):
    """The format of keys that rank the entries of several leaves by magnitude exactly."""

    dtype: jnp.dtype
    """A floating-point dtype that represents the values of every leaf exactly."""

    @property
    def bits(self) -> jnp.dtype:
        """The signed integer type of the keys."""
        return jnp.dtype(f"int{8 * self.dtype.itemsize}")

    @property
    def infinity(self) -> int:
        """The key of an infinite magnitude; only NaN has a larger key."""
        return int(np.asarray(np.inf, self.dtype).view(self.bits))

    @property
    def octave(self) -> int:
        """The number of keys between a magnitude and twice that magnitude."""
        return 1 << jnp.finfo(self.dtype).nmant

    def keys(self, leaf: jax.Array) -> jax.Array:
        """Return the keys >= 0 of a leaf; subnormals have distinct keys, and -0 ties with +0."""
        leaf = lax.stop_gradient(leaf)
        if leaf.dtype == jnp.bfloat16 and self.dtype == jnp.float32:
            # XLA:CPU flushes subnormals in the conversion, so the bits are moved directly: a
            # bfloat16 is the upper half of a float32.
            pattern = lax.bitcast_convert_type(leaf, jnp.uint16).astype(jnp.uint32) << 16
            pattern = lax.bitcast_convert_type(pattern, self.bits)
        else:
            pattern = lax.bitcast_convert_type(leaf.astype(self.dtype), self.bits)
        return pattern & int(jnp.iinfo(self.bits).max)  # all bits but the sign

    def magnitude(self, key: jax.Array) -> jax.Array:
        """Return the magnitude that a key stands for."""
        return lax.bitcast_convert_type(key, self.dtype)


def key_format(leaves: Sequence[jax.Array]) -> KeyFormat:
    """Return the key format for leaves that are ranked together.

    Leaves that share a dtype of 16 or more bits are compared in it; mixed dtypes are compared in
    the widest of float32 and the dtypes present.
    """
    dtypes = {jnp.dtype(leaf.dtype) for leaf in leaves}
    common = dtypes.pop() if len(dtypes) == 1 else jnp.dtype(jnp.float32)
    if jnp.dtype(jnp.float64) in dtypes:
        common = jnp.dtype(jnp.float64)
    return KeyFormat(jnp.dtype(jnp.float32) if common.itemsize == 1 else common)
