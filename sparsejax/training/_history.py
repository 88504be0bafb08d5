"""The metrics of the steps since the last callbacks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from sparsejax._step import Metrics


class MetricHistory:
    """The metrics of consecutive steps, up to the present one.

    Callbacks have different periods, and each gets the means over its own; so single values are
    kept. They go into a checkpoint, so that the means of a resumed run are those of an
    uninterrupted one.

    Args:
      step: the number of the step after which the history begins.
      values: float64 values of each step up to ``step``, by name.
    """

    def __init__(self, step: int, values: Mapping[str, Any] | None = None):
        self.step = step
        self._values = {name: np.asarray(v, np.float64) for name, v in (values or {}).items()}
        self._pending: list[Metrics] = []

    def append(self, metrics: Metrics) -> None:
        """Add the metrics of several steps, arrays [steps], without waiting for their values.

        Raises:
          ValueError: they have further dimensions.
        """
        for name, value in metrics.items():
            if value.ndim != 1:
                raise ValueError(
                    "step must return metrics that are scalars by name; the metric "
                    f"{name!r} has shape {value.shape[1:]}"
                )
        self._pending.append(metrics)

    def collect(self) -> int | None:
        """Wait for the values of all steps that were appended.

        Returns:
          The first step whose loss is not finite, counted from 0, or None.
        """
        if not self._pending:
            return None
        new = {
            name: np.concatenate([np.asarray(m[name], np.float64) for m in self._pending])
            for name in self._pending[0]
        }
        self._pending.clear()
        begin = self.step
        self.step += len(new["loss"])
        self._values = {
            name: np.concatenate([self._values.get(name, np.empty(0)), v])
            for name, v in new.items()
        }
        bad = np.flatnonzero(~np.isfinite(new["loss"]))
        return begin + int(bad[0]) if bad.size else None

    def loss(self, step: int) -> float:
        """The loss of a step, counted from 0."""
        return float(self._values["loss"][step - self.step])

    def means(self, since: int) -> dict[str, float]:
        """The means over the steps from ``since`` on, of those that are known."""
        count = self.step - since
        kept = {name: values[-count:] for name, values in self._values.items()}
        return {name: math.fsum(values) / len(values) for name, values in kept.items()}

    def forget(self, before: int) -> None:
        """Drop the values of the steps before ``before``."""
        keep = self.step - before
        self._values = {n: v[max(len(v) - keep, 0) :] for n, v in self._values.items()}

    def values(self) -> dict[str, list[float]]:
        """The values of the steps that are remembered, as JSON; exact."""
        return {name: values.tolist() for name, values in self._values.items()}
