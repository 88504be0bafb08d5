"""Roles that the names of leaves state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

from sparsejax._tree_layers import Leaf

Name: TypeAlias = Literal["kernel", "weight", "bias", "b", "scale"]

VECTORS = {"alpha", "slope", "temperature", "token", "tokens", "cls"}
"""Words in the names of vectors that belong to no kernel."""

_BIASES = {"bias", "biases", "offset", "beta"}
_SCALES = {"scale", "scales", "gamma", "gain"}
_NORMS = {"norm", "ln", "bn", "gn", "rms"}
_WEIGHTS = {"weight", "weights", "kernel", "kernels", "embedding", "embeddings", "w"}


def named(leaf: Leaf) -> Name | None:
    """Return the role that a leaf's own name states, or None if it states none.

    ``weight`` is a kernel, or the scale of a normalisation; ``b`` may be a bias.
    """
    words = [word for word in leaf.words if not word.isdigit()]
    if not words:
        return None
    statistic = {"mean", "var", "variance"} & set(words)
    if statistic and ({"running", "moving"} & set(words) or is_norm(leaf.layer_words)):
        return "scale"
    if words == ["weight", "g"] or (words == ["g"] and is_norm(leaf.layer_words)):
        return "scale"  # of weight normalisation, or of another normalisation
    for word in reversed(words):
        if word in _BIASES:
            return "bias"
        if word in _SCALES or is_norm([word]):
            return "scale"
        if word.startswith(("kernel", "embed")) or word == "emb":
            return "kernel"
        if word in ("weight", "weights"):
            return "scale" if is_norm(words) else "weight"
    if "w" in (words[0], words[-1]):
        return "weight"
    return "b" if "b" in (words[0], words[-1]) else None


def is_norm(words: Sequence[str]) -> bool:
    """Whether a word names a normalisation."""
    return any(
        word in _NORMS or word.endswith("norm") or word.startswith("normali") for word in words
    )


def stem(leaf: Leaf) -> tuple[str, ...]:
    """Return the words of a leaf's name without those that state its role."""
    words = leaf.words
    rest = tuple(word for word in words if word not in _BIASES | _SCALES | _WEIGHTS | {"b"})
    if rest == words and words and words[0][0] in "wb" and len(words[0]) > 1:
        return (words[0][1:], *words[1:])  # wq and bq
    return rest
