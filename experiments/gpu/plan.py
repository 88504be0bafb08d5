"""The plan for the time that is left: how many starts, and how many rounds of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

_ROUNDS = 2  # of each start before another start is added: a single round prunes too little


class Plan(NamedTuple):
    """Searches by continuous sparsification, all in one program."""

    initial: tuple[float, ...]
    """The initial values of the gates."""
    rounds: int
    """The number of the last round."""
    seconds: float
    """The predicted seconds of the rounds that are still to come."""

    def __str__(self) -> str:
        starts = ", ".join(f"{start:g}" for start in self.initial)
        return (
            f"continuous sparsification from {starts} up to round {self.rounds}, about "
            f"{self.seconds / 60:.1f} minutes"
        )


def make_plan(
    initial: Sequence[float],
    rounds: int,
    round_seconds: float,
    left: float,
    started: Sequence[float] = (),
    done: int = 0,
) -> Plan:
    """Choose starts and rounds.

    As many starts, in the order in which they are given, as have two rounds in the time that is
    left; then as many rounds as fit. Searches that an earlier call started keep their starts and
    get further rounds. One start and one round are planned even if they do not fit: what a limit
    cuts off is continued by the next call.

    Args:
      initial: initial values of the gates, the most telling first.
      rounds: the most rounds.
      round_seconds: seconds of a round of one start, the training of its tickets included.
      left: seconds that are left.
      started: the starts of an earlier call.
      done: the rounds of these that have ended.

    Returns:
      The plan; of no seconds if all is done.
    """
    starts = tuple(started)
    if not starts:
        fits = left / (round_seconds * min(_ROUNDS, rounds))
        starts = tuple(initial[: max(1, int(fits))])
    seconds = round_seconds * len(starts)
    more = min(max(1, int(left / seconds)), rounds - done)
    return Plan(starts, done + max(0, more), seconds * max(0, more))
