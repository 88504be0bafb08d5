"""Handing an optimizer the extra arguments of optax's protocol."""

from __future__ import annotations

import inspect

import optax


def accepting_extra_args(
    optimizer: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """``optimizer``, ignoring the extra arguments that its ``update`` does not name.

    As ``optax.with_extra_args_support``, and for transformations too that are declared to take
    extra arguments but take none, as ``optax.contrib.sam`` is.
    """
    optimizer = optax.with_extra_args_support(optimizer)
    parameters = inspect.signature(optimizer.update).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return optimizer

    def update(updates, state, params=None, **extra_args):
        named = {name: value for name, value in extra_args.items() if name in parameters}
        return optimizer.update(updates, state, params, **named)

    return optax.GradientTransformationExtraArgs(optimizer.init, update)
