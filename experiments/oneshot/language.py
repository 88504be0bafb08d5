"""SmolLM2-135M and the texts that it is calibrated, trained and tested on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.common.distillation import distillation_losses
from experiments.common.perplexity import next_token_losses, perplexity
from experiments.data.brown import load_brown, windows
from experiments.data.smollm2 import load_smollm2
from experiments.oneshot.config import Config
from sparsejax import oneshot
from sparsejax.models import Decoder, generate
from sparsejax.oneshot import Calibration

_CHUNK = 1  # windows a forward pass; on a CPU more are slower
PROMPT = "The weather in the mountains changes quickly, so"
_SAMPLE_TOKENS = 40


def in_layers(path: Any, leaf: Any) -> bool:
    """Choose the kernels of the layers; the embedding, which also makes the logits, stays dense."""
    return leaf.ndim == 2 and "layers" in jax.tree_util.keystr(path)


@dataclasses.dataclass(frozen=True)
class Language:
    """The pretrained network as a function, with the windows of each split."""

    function: Callable[[Any, jax.Array], jax.Array]
    """Logits of tokens [batch, context]."""
    params: Any
    merged: Callable[[Any], Any]
    """The network as a module, with given parameters."""
    tokenizer: Any
    tokens: dict[str, np.ndarray]
    """The tokens of the splits "calibration", "validation" and "test"."""
    groups: int
    """The groups of heads of a layer; each shares its keys and values."""
    group_width: int
    """The units of the queries of a group."""
    sizes: dict[str, int]
    """The sizes of `experiments.oneshot.config.Config.sizes`."""

    def drawn(self, draw: int) -> np.ndarray:
        """The calibration windows of a draw, int32 [windows, context]."""
        return windows(
            self.tokens["calibration"], self.sizes["context"], self.sizes["windows"], draw
        )

    def batches(self, draw: int) -> Iterator[jax.Array]:
        """The calibration windows of a draw, a few at a time."""
        drawn = self.drawn(draw)
        for start in range(0, len(drawn), _CHUNK):
            yield jnp.asarray(drawn[start : start + _CHUNK])

    def squared_gradients(self, draw: int, count: int) -> Any:
        """The mean squared gradients over the first calibration windows of a draw, one by one."""
        first = self.drawn(draw)[:count, None]
        loss = lambda params, tokens: self.loss(params, {"tokens": tokens})[0]  # noqa: E731
        return oneshot.squared_gradients(loss, self.params, map(jnp.asarray, first))

    def training(self) -> np.ndarray:
        """All windows of the calibration texts, int32 [windows, context]."""
        return windows(self.tokens["calibration"], self.sizes["context"])

    def perplexity(self, params: Any, split: str) -> float:
        """The perplexity on the first windows of a split."""
        count = self.sizes[f"{split}_windows"]
        first = windows(self.tokens[split], self.sizes["context"], count)
        return perplexity(self.function, params, first, _CHUNK)

    def loss(
        self, params: Any, batch: dict[str, jax.Array], key: jax.Array | None = None
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Mean cross-entropy of the next token of windows, in nats."""
        del key
        tokens = batch["tokens"]
        return next_token_losses(self.function(params, tokens), tokens).mean(), {}

    def distillation_loss(
        self, params: Any, teacher: Any, batch: dict[str, jax.Array], key: jax.Array
    ) -> tuple[jax.Array, tuple[dict[str, Any], Any]]:
        """Mean divergence from the teacher's distributions of the next token of windows, in nats.

        The teacher's parameters are the statistics of a `sparsejax.training.TrainState`, which stay
        as they are: as a constant of the program they would be in memory several times.
        """
        del key
        tokens = batch["tokens"]
        logits = self.function(params, tokens)
        losses = distillation_losses(logits, self.function(teacher, tokens))
        # The last position predicts nothing that is known.
        entropy = jax.lax.stop_gradient(next_token_losses(logits, tokens).mean())
        return losses[:, :-1].mean(), ({"cross_entropy": entropy}, teacher)

    def sample(self, params: Any) -> str:
        """Return a continuation of a prompt that takes the likeliest token each time."""
        prompt = jnp.asarray([self.tokenizer.encode(PROMPT).ids], jnp.int32)
        tokens = generate(self.merged(params), prompt, _SAMPLE_TOKENS)
        text: str = self.tokenizer.decode(np.asarray(tokens[0]).tolist())
        return text


def load(config: Config) -> Language:
    """Read the network and the texts."""
    _, model, tokenizer = load_smollm2(config.data_dir)
    return of(model, tokenizer, load_brown(config.data_dir, tokenizer), config)


def of(model: Decoder, tokenizer: Any, tokens: dict[str, np.ndarray], config: Config) -> Language:
    """A network with its tokenizer and the tokens of each split."""
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    def function(params: Any, tokens: jax.Array) -> jax.Array:
        logits: jax.Array = nnx.merge(graph, params, rest)(tokens)
        return logits

    groups = model.config.kv_heads
    return Language(
        function, params, lambda params: nnx.merge(graph, params, rest), tokenizer, tokens,
        groups, model.config.width // groups, config.sizes(),
    )  # fmt: skip


class Calibrations:
    """The calibration of the last draw, which the rows of a draw share."""

    def __init__(self, language: Language):
        self.language = language
        self.draw: int | None = None
        self.found: Calibration | None = None

    def __call__(self, draw: int) -> Calibration:
        """Calibrate the dense network with the windows of a draw, unless that was the last one."""
        if draw != self.draw or self.found is None:
            language = self.language
            self.found = None  # its memory is needed
            self.found = oneshot.calibrate(
                language.function, language.params, language.batches(draw), where=in_layers
            )
            self.draw = draw
        return self.found
