"""Selection of entries that never changes the bits of those it keeps."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax


def keep(leaf: jax.Array, mask: jax.Array, undefined: jax.Array | bool = False) -> jax.Array:
    """Return ``leaf`` where ``mask`` holds and 0 elsewhere; NaN where ``undefined`` holds.

    Args:
      leaf: floating-point array.
      mask: bools that broadcast to the shape of ``leaf``.
      undefined: bools that broadcast to the shape of ``leaf``.

    Returns:
      An array with the shape and dtype of ``leaf``.
    """
    if leaf.dtype == jnp.bfloat16:
        return _keep_bits(leaf, mask, undefined)
    return jnp.where(undefined, jnp.nan, jnp.where(mask, leaf, 0)).astype(leaf.dtype)


@jax.custom_jvp
def _keep_bits(leaf: jax.Array, mask: jax.Array, undefined: jax.Array | bool) -> jax.Array:
    # XLA:CPU makes nested selections by way of float32, and processors with instructions for
    # bfloat16 flush subnormals on the way back. Selections between bit patterns are turned into
    # selections between floats before that; bitwise operations are not.
    bits = lax.bitcast_convert_type(leaf, jnp.uint16)
    nan = jnp.asarray(undefined).astype(jnp.uint16) * jnp.uint16(0x7FC0)
    kept = bits & (jnp.uint16(0) - mask.astype(jnp.uint16))
    return lax.bitcast_convert_type(kept | nan, jnp.bfloat16)


@_keep_bits.defjvp
def _keep_tangent(
    primals: tuple[jax.Array, jax.Array, jax.Array], tangents: tuple[jax.Array, object, object]
) -> tuple[jax.Array, jax.Array]:
    leaf, mask, undefined = primals
    return _keep_bits(leaf, mask, undefined), jnp.where(mask, tangents[0], 0).astype(leaf.dtype)
