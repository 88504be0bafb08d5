"""Products of matrices in full precision."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
"""Accelerators would round the operands of float32 products otherwise."""
