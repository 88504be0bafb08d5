"""The perplexity of a language model."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

LanguageModel: TypeAlias = Callable[[PyTree, jax.Array], jax.Array]
"""``function(params, tokens)``: logits [batch, length, vocabulary] of the tokens that follow."""


def next_token_losses(
    logits: Float[Array, "batch length vocabulary"], tokens: Int[Array, "batch length"]
) -> Float[Array, "batch length-1"]:
    """Compute the negative log-likelihood of each token but the first of each sequence.

    Args:
      logits: logits at each position; the last one predicts nothing that is known.
      tokens: the tokens.

    Returns:
      -log p(token i | tokens before i) for i >= 1, in nats.
    """
    # The logits are many: they are read where they are, and only the results are cut.
    right = jnp.take_along_axis(logits, jnp.roll(tokens, -1, axis=1)[..., None], axis=-1)[..., 0]
    return (jax.nn.logsumexp(logits, axis=-1) - right)[:, :-1]


def perplexity(
    function: LanguageModel, params: PyTree, windows: np.ndarray, batch_size: int = 1
) -> float:
    """Compute the perplexity of a language model on windows of text.

    exp(-mean log p(token i | tokens of its window before i)) over all tokens but the first of each
    window.

    Args:
      function: ``function(params, tokens) -> logits``; the same function again is not recompiled.
      params: its parameters.
      windows: int array [windows, length].
      batch_size: number of windows at once; on a CPU one is fastest.

    Returns:
      The perplexity.

    Raises:
      ValueError: there are no windows, or they have fewer than two tokens.
    """
    count, length = np.shape(windows)
    if not count or length < 2:
        raise ValueError(
            f"windows must be one or more of two or more tokens; got shape {np.shape(windows)}"
        )
    batch_size = min(batch_size, count)
    total = 0.0
    for start in range(0, count, batch_size):
        batch = np.asarray(windows[start : start + batch_size])
        # The last batch is filled up, so that all have one shape, and the filling does not count.
        filled = np.pad(batch, ((0, batch_size - len(batch)), (0, 0)))
        sums = _losses_of_windows(function, params, jnp.asarray(filled, jnp.int32))
        total += float(np.asarray(sums, np.float64)[: len(batch)].sum())
    return math.exp(total / (count * (length - 1)))


@functools.partial(jax.jit, static_argnums=0)
def _losses_of_windows(
    function: LanguageModel, params: PyTree, tokens: Int[Array, "batch length"]
) -> Float[Array, " batch"]:
    return next_token_losses(function(params, tokens), tokens).sum(axis=1)
