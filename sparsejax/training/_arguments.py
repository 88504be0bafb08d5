"""Checks of the arguments of `fit` whose types are mistaken easily."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sparsejax.training._batches import Batches, BatchSource
from sparsejax.training._callbacks import Callback, StopWhen
from sparsejax.training._checkpoints import Checkpoints


def check_types(
    step: Any, state: Any, batches: Any, callbacks: Any, stop: Any, checkpoints: Any
) -> None:
    """Check the types of arguments of `fit`, which are named as they are there.

    Raises:
      TypeError: an argument is of another type.
    """
    if not callable(step):
        raise TypeError(
            "step must be a function (state, batch) -> (state, metrics), as make_step(loss, "
            f"optimizer) builds it; got {type(step).__name__}"
        )
    if not (hasattr(state, "step") and hasattr(state, "params")):
        raise TypeError(
            "state must have a step and params, as init_state(params, optimizer, key) builds it; "
            f"got {type(state).__name__}"
        )
    _check("batches", batches, (Batches, BatchSource), "Batches(data, batch_size) or a BatchSource")
    if not isinstance(callbacks, Sequence) or isinstance(callbacks, Callback):
        raise TypeError(f"callbacks must be a list; got {type(callbacks).__name__}")
    for place, callback in enumerate(callbacks):
        made = "made by report, revise or Callback"
        _check(f"callbacks[{place}]", callback, (Callback,), made)
    if stop is not None:
        _check("stop", stop, (StopWhen,), "StopWhen(condition)")
    if checkpoints is not None:
        _check("checkpoints", checkpoints, (Checkpoints,), "Checkpoints(folder)")


def _check(name: str, value: Any, kinds: tuple[type, ...], allowed: str) -> None:
    if not isinstance(value, kinds):
        raise TypeError(f"{name} must be {allowed}; got {type(value).__name__}")
