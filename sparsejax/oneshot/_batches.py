"""Checks of a function and of the batches that it is run on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from sparsejax._names import named_leaves


def check_function(function: Any, name: str = "function") -> None:
    """Check that an argument can be called.

    Args:
      function: the argument.
      name: its name.

    Raises:
      TypeError: it cannot.
    """
    if not callable(function):
        raise TypeError(
            f"{name} must be a function (params, batch); got a {type(function).__name__}"
        )


def checked(batches: Iterable[PyTree]) -> Iterator[PyTree]:
    """Return an iterator over batches, each of which is checked when it is asked for.

    Raises:
      TypeError: ``batches`` is an array, whose rows would be taken for batches, or is not an
        iterable of batches.
    """
    if isinstance(batches, (jax.Array, np.ndarray)):
        raise TypeError(
            "batches must be an iterable of batches, such as a list; got an array of shape "
            f"{batches.shape}. A single batch is passed as [batch], and batches that are stacked "
            "as list(batches)"
        )
    if isinstance(batches, (Mapping, str, bytes)) or not isinstance(batches, Iterable):
        raise TypeError(
            "batches must be an iterable of batches, such as a list; got a "
            f"{type(batches).__name__}. A single batch is passed as [batch]"
        )
    return _checked(batches)


def _checked(batches: Iterable[PyTree]) -> Iterator[PyTree]:
    for number, batch in enumerate(batches):
        for name, leaf in named_leaves(batch):
            traced = isinstance(leaf, jax.core.Tracer)
            if traced or not isinstance(leaf, (jax.Array, np.ndarray, np.generic, int, float)):
                what = "traced" if traced else f"{leaf!r} ({type(leaf).__name__})"
                where = f"leaf {name} of batch {number}" if name else f"batch {number}"
                raise TypeError(f"batches must hold concrete arrays or numbers; {where} is {what}")
        yield batch
