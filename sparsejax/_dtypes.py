"""Dtypes of the arithmetic, which do not depend on the setting of dtype promotion."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def promoted(*values: Any) -> jnp.dtype:
    """Return the dtype to which arrays, numbers and dtypes promote by JAX's standard rules.

    The library converts explicitly, so it works under any ``jax_numpy_dtype_promotion``.
    """
    with jax.numpy_dtype_promotion("standard"):
        return jnp.result_type(*values)


def at_least_float32(*values: Any) -> jnp.dtype:
    """Return the dtype to which values and float32 promote.

    An array has its own dtype, also one that JAX calls weakly typed, such as ``jnp.array(1.0)``:
    with 64 bits its numbers would be rounded to float32 otherwise.
    """
    return promoted(jnp.float32, *(getattr(value, "dtype", value) for value in values))
