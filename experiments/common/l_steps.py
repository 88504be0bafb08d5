"""The learning rate of the L steps of learning-compression."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import optax


def l_step_rate(
    rate: float, decay: float, cooldown: float, cooldown_start: int, first: int, steps: int
) -> optax.Schedule:
    """A rate that is constant in an L step and falls from one to the next.

    Args:
      rate: the rate in the first L step.
      decay: its factor from one L step to the next.
      cooldown: a further factor in each L step after number ``cooldown_start``.
      cooldown_start: the number of the last L step without it; the first L step is number 0.
      first: optimisation steps in the first L step.
      steps: optimisation steps in each of the others.
    """

    def schedule(step: Any) -> Any:
        l_step = jnp.maximum(0, (step - first) // steps + 1)
        cooling = jnp.maximum(0, l_step - cooldown_start)
        return rate * (decay**l_step * cooldown**cooling)

    return schedule
