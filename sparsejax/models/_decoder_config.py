"""The sizes of a `Decoder`."""

from __future__ import annotations

import dataclasses
import math

from sparsejax import _checks


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """The sizes of a Llama-style decoder.

    Raises:
      TypeError: a size is not an integer.
      ValueError: a size is less than 1, ``width`` is not a multiple of ``heads`` or gives heads of
        an odd size, ``heads`` is not a multiple of ``kv_heads``, or a number is not positive.
    """

    vocabulary: int
    """The number of tokens."""
    width: int
    """The number of units of the residual stream."""
    layers: int
    """The number of layers."""
    heads: int
    """The number of query heads; each has ``width // heads`` units."""
    kv_heads: int
    """The number of key and value heads; each serves ``heads // kv_heads`` query heads."""
    hidden: int
    """The number of hidden units of the feed-forward blocks."""
    rope_theta: float = 10000.0
    """The base of the wavelengths of the rotary embedding."""
    norm_epsilon: float = 1e-5
    """What is added to the mean square before the root is taken in the normalisations."""
    tie_embedding: bool = True
    """Whether the matrix of the logits is the token embedding."""

    def __post_init__(self) -> None:
        for name in ("vocabulary", "width", "layers", "heads", "kv_heads", "hidden"):
            # Integers of NumPy would make equal configurations print differently.
            object.__setattr__(self, name, _checks.python_integer(name, getattr(self, name), 1))
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise ValueError(
                "width must be an even multiple of heads, since the rotary embedding rotates pairs "
                f"of a head's units; got width {self.width} and heads {self.heads}"
            )
        if self.heads % self.kv_heads:
            raise ValueError(
                "heads must be a multiple of kv_heads; "
                f"got heads {self.heads} and kv_heads {self.kv_heads}"
            )
        for name in ("rope_theta", "norm_epsilon"):
            if not 0 < (number := float(getattr(self, name))) < math.inf:
                raise ValueError(f"{name} must be a positive number; got {number}")

    @property
    def head_size(self) -> int:
        """The number of units of a head."""
        return self.width // self.heads
