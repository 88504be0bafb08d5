"""A Llama-style decoder (Touvron et al., 2023)."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, Int

from sparsejax import _checks
from sparsejax._dtypes import at_least_float32
from sparsejax.models._decoder_config import DecoderConfig
from sparsejax.models._rotary import rotate


class Decoder(nnx.Module):
    """A Llama-style decoder: a language model that predicts the token that follows each token.

    Each layer adds an attention block and a feed-forward block to the residual stream x::

        x <- x + W_o attention(rotate(W_q n), rotate(W_k n), W_v n),   n = norm(x)
        x <- x + W_down (silu(W_gate m) * (W_up m)),                   m = norm(x)

    norm divides by the root mean square and multiplies by a learned scale. Attention is causal;
    each of the ``kv_heads`` heads of keys and values serves ``heads / kv_heads`` heads of queries.
    The logits are the products of the normalised output with the token embeddings, or with a matrix
    of their own. No layer has biases, and all kernels are [in, out]::

        embedding/embedding                                          [vocabulary, width]
        layers/0/attention/query/kernel (key, value, output)         [width, heads * head size] ...
        layers/0/mlp/gate/kernel (up, down)                          [width, hidden] ...
        layers/0/attention_norm/scale, layers/0/mlp_norm/scale       [width]
        norm/scale                                                   [width]
        head/kernel, unless the embedding is tied                    [width, vocabulary]

    Kernels are initialised Lecun-normal, embeddings normal with variance 1 / width, scales as ones.

    Args:
      config: the sizes.
      scan_layers: whether the parameters of the layers are stacked (``layers/attention/...`` with a
        leading axis) and the layers run under ``lax.scan``, which compiles one layer instead of
        all. The numbers are those of the separate layers.
      dtype: dtype of the computation, such as ``jnp.bfloat16``; parameters are float32.
        Normalisations, angles, attention weights and logits are computed in float32 at least.
      rngs: random streams for the initial parameters.

    References:
      Touvron et al., LLaMA: open and efficient foundation language models, 2023.
      Ainslie et al., GQA: training generalized multi-query transformer models from multi-head
      checkpoints, EMNLP 2023.
    """

    def __init__(
        self,
        config: DecoderConfig,
        scan_layers: bool = False,
        dtype: DTypeLike = jnp.float32,
        *,
        rngs: nnx.Rngs,
    ):
        self.config, self.scan_layers, self.dtype = config, scan_layers, dtype
        self.embedding = nnx.Embed(config.vocabulary, config.width, dtype=dtype, rngs=rngs)
        layers = [_Layer(config, dtype, rngs) for _ in range(config.layers)]
        self.layers = _stack(layers) if scan_layers else nnx.List(layers)
        self.norm = _norm(config, dtype, rngs)
        if not config.tie_embedding:
            self.head = _dense(config.width, config.vocabulary, dtype, rngs)

    def __call__(
        self, tokens: Int[Array, "batch length"], position: Int[ArrayLike, ""] | None = None
    ) -> Float[Array, "batch length vocabulary"] | Float[Array, "batch vocabulary"]:
        """Compute the logits of the tokens that follow.

        Args:
          tokens: integers [batch, length] from 0 to ``vocabulary - 1``.
          position: an integer, traced or not: the position whose logits are computed, -1 for the
            last one. This saves the product of all other positions with the token embeddings. None
            computes the logits of all positions.

        Returns:
          Logits [batch, length, vocabulary], or [batch, vocabulary] where ``position`` is given;
          float32 (float64 if ``dtype`` is): those at position i depend on the tokens up to i and
          predict token i + 1.

        Raises:
          ValueError: the tokens have a different shape, or are not integers; ``position`` is not
            an integer, or not below the length.
        """
        if jnp.ndim(tokens) != 2 or not jnp.issubdtype(jnp.result_type(tokens), jnp.integer):
            raise ValueError(
                "tokens must be integers [batch, length]; "
                f"got {jnp.result_type(tokens)} of shape {jnp.shape(tokens)}"
            )
        stream = self.embedding(tokens)
        if self.scan_layers:
            graph, params = nnx.split(self.layers)
            stream, _ = lax.scan(lambda x, p: (nnx.merge(graph, p)(x), None), stream, params)
        else:
            for layer in self.layers:
                stream = layer(stream)
        if position is not None:
            stream = _at(stream, position)
        stream = self.norm(stream)
        if self.config.tie_embedding:
            matrix = self.embedding.embedding[...].astype(self.dtype).T
        else:
            matrix = self.head.kernel[...].astype(self.dtype)
        return jnp.matmul(stream, matrix, preferred_element_type=at_least_float32(stream.dtype))


def _at(
    stream: Float[Array, "batch length width"], position: Int[ArrayLike, ""]
) -> Float[Array, "batch width"]:
    length = stream.shape[1]
    if jnp.ndim(position) or not jnp.issubdtype(jnp.result_type(position), jnp.integer):
        raise ValueError(f"position must be one integer; got {position}")
    if (given := _checks.known(position)) is not None and not -length <= given < length:
        raise ValueError(
            f"position must be an integer from {-length} to {length - 1}; got {position}"
        )
    chosen: jax.Array = lax.dynamic_index_in_dim(stream, position, axis=1, keepdims=False)
    return chosen


class _Layer(nnx.Module):
    """An attention block and a feed-forward block."""

    def __init__(self, config: DecoderConfig, dtype: DTypeLike, rngs: nnx.Rngs):
        self.attention_norm = _norm(config, dtype, rngs)
        self.attention = _Attention(config, dtype, rngs)
        self.mlp_norm = _norm(config, dtype, rngs)
        self.mlp = _FeedForward(config, dtype, rngs)

    def __call__(self, stream: Float[Array, "batch length width"]) -> Float[Array, "..."]:
        stream = stream + self.attention(self.attention_norm(stream))
        return stream + self.mlp(self.mlp_norm(stream))


class _Attention(nnx.Module):
    """Causal attention with rotary positions and grouped queries."""

    def __init__(self, config: DecoderConfig, dtype: DTypeLike, rngs: nnx.Rngs):
        self.config = config
        shared = config.kv_heads * config.head_size
        self.query = _dense(config.width, config.width, dtype, rngs)
        self.key = _dense(config.width, shared, dtype, rngs)
        self.value = _dense(config.width, shared, dtype, rngs)
        self.output = _dense(config.width, config.width, dtype, rngs)

    def __call__(self, inputs: Float[Array, "batch length width"]) -> Float[Array, "..."]:
        config = self.config
        heads = (*inputs.shape[:2], -1, config.head_size)
        query = rotate(self.query(inputs).reshape(heads), config.rope_theta)
        key = rotate(self.key(inputs).reshape(heads), config.rope_theta)
        attended = _attend(query, key, self.value(inputs).reshape(heads))
        outputs: jax.Array = self.output(attended.reshape(inputs.shape))
        return outputs


def _attend(
    query: Float[Array, "batch length heads size"],
    key: Float[Array, "batch length kv_heads size"],
    value: Float[Array, "batch length kv_heads size"],
) -> Float[Array, "batch length heads size"]:
    """Mix the values of the positions up to each position, by softmax(q'k / sqrt(size))."""
    batch, length, _, size = query.shape
    shared = key.shape[2]
    dtype = at_least_float32(query.dtype)
    # The queries that share a key head are the rows of one product, which is fast on CPUs.
    rows = query.reshape(batch, length, shared, -1, size).transpose(0, 2, 3, 1, 4)
    rows = rows.reshape(batch, shared, -1, size) / size**0.5
    # Unlike jnp.matmul, this is the same operation for a batch of one.
    product = partial(lax.dot_general, preferred_element_type=dtype)
    scores = product(rows, key, (((3,), (3,)), ((0, 1), (0, 2))))
    scores = scores.reshape(batch, shared, -1, length, length)
    position = jnp.arange(length)
    scores = jnp.where(position <= position[:, None], scores, -jnp.inf)
    weights = jnp.exp(scores - lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
    rows = weights.reshape(batch, shared, -1, length).astype(value.dtype)
    mixed = product(rows, value, (((3,), (1,)), ((0, 1), (0, 2))))
    mixed = mixed.reshape(batch, shared, -1, length, size)
    # Divided after the product, since there are fewer numbers.
    mixed = mixed / weights.sum(axis=-1, keepdims=True)
    return mixed.transpose(0, 3, 1, 2, 4).reshape(query.shape).astype(query.dtype)


class _FeedForward(nnx.Module):
    """SwiGLU: a gated feed-forward block."""

    def __init__(self, config: DecoderConfig, dtype: DTypeLike, rngs: nnx.Rngs):
        self.gate = _dense(config.width, config.hidden, dtype, rngs)
        self.up = _dense(config.width, config.hidden, dtype, rngs)
        self.down = _dense(config.hidden, config.width, dtype, rngs)

    def __call__(self, inputs: Float[Array, "batch length width"]) -> Float[Array, "..."]:
        outputs: jax.Array = self.down(jax.nn.silu(self.gate(inputs)) * self.up(inputs))
        return outputs


def _norm(config: DecoderConfig, dtype: DTypeLike, rngs: nnx.Rngs) -> nnx.RMSNorm:
    return nnx.RMSNorm(config.width, epsilon=config.norm_epsilon, dtype=dtype, rngs=rngs)


def _dense(inputs: int, outputs: int, dtype: DTypeLike, rngs: nnx.Rngs) -> nnx.Linear:
    return nnx.Linear(inputs, outputs, use_bias=False, dtype=dtype, rngs=rngs)


def _stack(layers: list[_Layer]) -> Any:
    """Return one layer whose parameters are those of all layers, stacked."""
    graph, _ = nnx.split(layers[0])
    states = [nnx.state(layer) for layer in layers]
    return nnx.merge(graph, jax.tree.map(lambda *leaves: jnp.stack(leaves), *states))
