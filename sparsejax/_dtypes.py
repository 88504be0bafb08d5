"""Dtypes in which we compute, found the same under strict dtype promotion."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def promoted(*values: Any) -> jnp.dtype:
    """The dtype that holds all given values (arrays, numbers or dtypes) by JAX's standard rules.

    We convert explicitly, so what ``jax_numpy_dtype_promotion`` is set to must not matter.
    """
    with jax.numpy_dtype_promotion("standard"):
        return jnp.result_type(*values)


def at_least_float32(*values: Any) -> jnp.dtype:
    """The same, but not narrower than float32."""
    return promoted(jnp.float32, *values)
