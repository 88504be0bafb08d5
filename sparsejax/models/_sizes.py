"""Checks of the arguments that make a model smaller than that of its paper."""

from __future__ import annotations

import operator
from collections.abc import Sequence


def sizes_of(units: Sequence[int], layers: int) -> tuple[int, ...]:
    """``units`` as integers, one for each of ``layers``.

    Raises:
      ValueError: the number of units is not ``layers``, or one is not an integer >= 1.
    """
    number = {2: "two", 3: "three"}[layers]
    message = f"units must be {number} integers >= 1; got {units!r}"
    try:
        sizes = tuple(operator.index(n) for n in units)
    except TypeError:
        raise ValueError(message) from None
    if len(sizes) != layers or min(sizes) < 1:
        raise ValueError(message)
    return sizes


def scaled(units: int, width: float) -> int:
    """``units * width``, rounded, at least 1.

    Raises:
      ValueError: ``width`` is not a positive number.
    """
    if not 0 < width < float("inf"):
        raise ValueError(f"width must be a positive number; got {width!r}")
    return max(1, round(units * width))


def kept_of(kept_inputs: Sequence[int], inputs: int) -> tuple[int, ...]:
    """``kept_inputs`` as integers.

    Raises:
      ValueError: they are not one or more distinct integers in [0, inputs).
    """
    try:
        kept = tuple(operator.index(n) for n in kept_inputs)
    except TypeError:
        raise ValueError(f"kept_inputs must be integers; got {kept_inputs!r}") from None
    if not kept or min(kept) < 0 or max(kept) >= inputs or len(set(kept)) < len(kept):
        raise ValueError(
            f"kept_inputs must be one or more different integers from 0 to {inputs - 1}; "
            f"got {list(kept)}"
        )
    return kept
