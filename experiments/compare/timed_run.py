"""The cost of a step of each method, measured beside that of dense training in short runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from experiments.compare.compared_run import ComparedRun
from experiments.data import Dataset, Split
from sparsejax.training import Callback, init_state, make_step

Phases = Mapping[str, Sequence[Mapping[str, float]]]
"""For each phase of a run, ``step`` and ``seconds`` after each epoch."""


_DENSE = ("dense_before", "dense_after")
_DENSE_SHARE = 0.2
_DENSE_RATE = 0.05  # no matter for its cost


class TimedRun(ComparedRun):
    """All epochs of a method, with a share of the images and the same share of its renewals, and
    a fifth as many of dense training before and after it: a machine that others use, too, changes
    its speed within minutes.

    Its seed is the number of the round in which the methods take turns. Neither its network nor
    its errors mean anything, so none is saved or computed; times are kept in memory, since a write
    to the disk takes as long as two steps.
    """

    def __init__(self, *args: Any):
        super().__init__(*args)
        self.times: dict[str, list[dict[str, float]]] = {}
        self._dense = self.sgd(_DENSE_RATE, self.epochs)
        self._dense_step = make_step(self.loss, self._dense)

    @property
    def title(self) -> str:
        """Its network, method and round."""
        return f"{self.settings['network']} {self.settings['method']} timing round {self.seed}"

    def headline(self, result: Mapping[str, Any]) -> str:
        """The time of a step."""
        if "diverged" in result:
            return super().headline(result)
        dense = result["dense_milliseconds_a_step"]
        return f"{result['milliseconds_a_step']:.3f} ms a step (dense: {dense:.3f} ms)"

    def done(self) -> bool:
        """See `Run.done`; there is no network."""
        file = self.folder / "result.json"
        return file.exists() and bool(self.result()["settings"] == self.settings)

    def options(self, phase: str, shown: Callable[[Any], Any]) -> dict[str, Any]:
        """See `Trainer.options`; times are recorded, and nothing is validated or written."""
        del shown
        rows = self.times.setdefault(phase, [])

        def record(step: int, state: Any, metrics: Mapping[str, float]) -> None:
            del state
            rows.append({"step": step, "seconds": metrics["seconds"]})

        return {"phase": None, "callbacks": [Callback(record)]}

    def phases(self) -> dict[str, list[dict[str, float]]]:
        """The times of each phase; one that diverged in its first epoch has none."""
        return {phase: rows for phase, rows in self.times.items() if rows}

    def trained(self) -> tuple[dict[str, Any], Any]:
        """The mean time of a step, of the method and of dense training beside it."""
        before, after = _DENSE
        self._train_densely(before)
        self.spend()
        self._train_densely(after)
        ours = {phase: rows for phase, rows in self.times.items() if phase not in _DENSE}
        return {
            "milliseconds_a_step": milliseconds_a_step(ours),
            "dense_milliseconds_a_step": milliseconds_a_step(
                {phase: self.times[phase] for phase in _DENSE}
            ),
            "seconds": self.seconds(),
        }, None

    def _train_densely(self, phase: str) -> None:
        state = init_state(self.initial, self._dense, jax.random.key(self.seed))
        # Two epochs at least: the first one does not count.
        self.run(phase, self._dense_step, state, max(2, self.share(_DENSE_SHARE)))


def milliseconds_a_step(phases: Phases) -> float:
    """Return the mean time of a step, each phase having the weight of its steps.

    The first report of a phase is left out, since its steps are compiled, and so are phases with
    one report, unless there are no others.
    """
    nothing = {"seconds": 0.0, "step": 0.0}
    several = [(rows[0], rows[-1]) for rows in phases.values() if len(rows) > 1]
    weighted = total = 0.0
    for first, last in several or [(nothing, rows[-1]) for rows in phases.values()]:
        time = (last["seconds"] - first["seconds"]) / (last["step"] - first["step"])
        weighted += last["step"] * time
        total += last["step"]
    return 1000 * weighted / total


def part(dataset: Dataset, share: float, least: int) -> Dataset:
    """A dataset with the first ``share`` of its training images, at least ``least`` of them."""
    count = max(least, round(share * len(dataset.train.labels)))
    return dataset._replace(train=Split(*(array[:count] for array in dataset.train)))
