"""Text from a language model, one token after another."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Int, Int32, PRNGKeyArray, PyTree

from sparsejax import _checks


def generate(
    model: nnx.Module,
    tokens: Int[Array, "batch length"],
    steps: int,
    key: PRNGKeyArray | None = None,
    temperature: float = 1.0,
) -> Int32[Array, "batch total"]:
    """Continue sequences of tokens by the model's predictions.

    Without a key each new token is the most probable one (greedy decoding); with one it is drawn
    from softmax(logits / temperature). All positions are computed again for each new token, which
    is enough for a look at some sentences.

    Args:
      model: a causal language model such as `Decoder`: ``model(tokens, position)`` gives the logits
        [batch, vocabulary] of the token after ``position``, an int32 scalar.
      tokens: integers [batch, length], at least one for each sequence.
      steps: number of tokens to add.
      key: key of the draws, or None for greedy decoding.
      temperature: positive number; smaller values prefer probable tokens.

    Returns:
      The given tokens and the new ones, int32 [batch, length + steps].

    Raises:
      TypeError: ``steps`` is not an integer.
      ValueError: ``steps`` is negative, ``temperature`` is not positive, ``tokens`` has a
        different shape or no tokens, or the model gives logits of another shape.
    """
    steps = _checks.python_integer("steps", steps, 0)
    tokens = jnp.asarray(tokens)
    if tokens.ndim != 2 or not tokens.shape[1]:
        raise ValueError(
            f"tokens must be integers [batch, length] with length >= 1; got shape {tokens.shape}"
        )
    if (given := _checks.known(temperature)) is not None and not given > 0:
        raise ValueError(f"temperature must be a positive number; got {temperature}")
    graph, params = nnx.split(model)
    continued: jax.Array = _continue(
        graph, params, tokens.astype(jnp.int32), steps, key, temperature
    )
    return continued


@functools.partial(jax.jit, static_argnums=(0, 3))
def _continue(
    graph: nnx.GraphDef[nnx.Module],
    params: PyTree[Array],
    tokens: Int32[Array, "batch length"],
    steps: int,
    key: PRNGKeyArray | None,
    temperature: float,
) -> Int32[Array, "batch total"]:
    model = nnx.merge(graph, params)
    length = tokens.shape[1]

    def step(position: int, filled: jax.Array) -> jax.Array:
        # The positions that are still empty hold zeros, which a causal model does not see.
        logits = model(filled, position - 1)
        if jnp.ndim(logits) != 2 or logits.shape[0] != tokens.shape[0]:
            raise ValueError(
                "model(tokens, position) must give logits [batch, vocabulary] of one position; "
                f"got shape {jnp.shape(logits)} for tokens {filled.shape}"
            )
        if key is None:
            new = jnp.argmax(logits, axis=-1)
        else:
            new = jax.random.categorical(jax.random.fold_in(key, position), logits / temperature)
        return filled.at[:, position].set(new.astype(jnp.int32))

    filled = jnp.pad(tokens, ((0, 0), (0, steps)))
    continued: jax.Array = lax.fori_loop(length, length + steps, step, filled)
    return continued
