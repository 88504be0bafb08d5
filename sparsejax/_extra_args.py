"""Support for optax's extra arguments in every optimizer."""

from __future__ import annotations

import inspect
from typing import Any

import optax

from sparsejax._checks import call_it


def accepting_extra_args(
    optimizer: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Return ``optimizer`` with an ``update`` that ignores extra arguments it does not name.

    Unlike ``optax.with_extra_args_support`` this covers transformations that are declared to take
    extra arguments but take none, such as ``optax.contrib.sam``, and ones that take them without
    being declared to, such as ``optax.MultiSteps``.

    Raises:
      TypeError: ``optimizer`` is no transformation.
    """
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise TypeError(
            "optimizer must be an optax transformation, with init and update; got "
            f"{optimizer!r} ({type(optimizer).__name__}){call_it(optimizer, 'optax.')}"
        )
    if _takes_any(optimizer.update):
        return optax.GradientTransformationExtraArgs(optimizer.init, optimizer.update)
    supported = optax.with_extra_args_support(optimizer)
    if _takes_any(supported.update):
        return supported
    parameters = inspect.signature(supported.update).parameters

    def update(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, optax.OptState]:
        named = {name: value for name, value in extra_args.items() if name in parameters}
        return supported.update(updates, state, params, **named)

    return optax.GradientTransformationExtraArgs(supported.init, update)


def _takes_any(update: Any) -> bool:
    """Whether a function takes keyword arguments of any name."""
    parameters = inspect.signature(update).parameters.values()
    return any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
