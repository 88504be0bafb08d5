"""The loss of every classifier here."""

from __future__ import annotations

import jax
import optax


def cross_entropy(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Mean cross-entropy of logits [batch, classes], and the share of mistakes in per cent."""
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    return loss, {"train_error": 100 * (logits.argmax(-1) != labels).mean()}
