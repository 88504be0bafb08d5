"""Callbacks between steps, with periods of their own, and early stopping."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from sparsejax.training._processes import is_main_process

Row = Mapping[str, float]


def _do_nothing() -> None:
    pass


class Callback(NamedTuple):
    """A function that `fit` calls after every ``every``-th step.

    Attributes:
      function: ``(step, state, metrics) -> state | None``. ``step`` is the number of steps taken.
        A state that is returned replaces the present one; it must have the shapes and dtypes of its
        leaves and depend on the arguments alone, so that a resumed run is the same run. ``metrics``
        holds the means of the step's metrics over the steps since the last multiple of ``every``,
        and ``step``, ``epoch``, ``seconds`` (of training, the time before a resumption included)
        and, if `fit` knows the schedule, ``learning_rate``.
      every: the period in steps; None is an epoch.
      at_end: whether the function is also called after the last step, if that is no multiple of
        ``every``. Only for a function that returns no state.
      close: called without arguments when `fit` returns or fails.
    """

    function: Callable[[int, Any, dict[str, float]], Any]
    every: int | None = None
    at_end: bool = False
    close: Callable[[], None] = _do_nothing


class StopWhen(NamedTuple):
    """A condition under which `fit` ends before its last step.

    Attributes:
      condition: ``state -> bool``, asked after the callbacks of a step. It depends on the state
        alone, so that a resumed run stops where an uninterrupted one does.
      every: steps between two questions; None is an epoch.
    """

    condition: Callable[[Any], bool]
    every: int | None = None


class Writer(Protocol):
    """The protocol of what `report` writes to, such as `MetricLog` and `ProgressBar`."""

    def write(self, row: Row, /) -> None:
        """Write the numbers of a step, by name; ``row["step"]`` is the number of the step."""

    def close(self) -> None:
        """Release what the writer holds; a later ``write`` opens it again."""


def revise(function: Callable[[Any], Any], every: int | None = None) -> Callback:
    """Replace the state by ``function(state)`` after every ``every``-th step.

    This is for what a jitted step cannot do, such as pruning by the accuracy on a split that is
    read from disk. List it before `report` if the reports are to see the revised state.

    Args:
      function: ``state -> state`` with the same shapes and dtypes; a function of the state alone.
      every: the period in steps; None is an epoch.

    Returns:
      A callback for `fit`.
    """
    return Callback(lambda step, state, metrics: function(state), every)


def report(
    *writers: Writer,
    evaluate: Callable[[Any], Row] | None = None,
    every: int | None = None,
) -> Callback:
    """Evaluate the state and write a row of numbers, periodically and at the end.

    Args:
      *writers: receive each row; of several processes only those of the main one.
      evaluate: ``state -> numbers`` by name, which are added to the metrics of training. It runs in
        every process.
      every: the period in steps; None is an epoch.

    Returns:
      A callback for `fit`. A report never changes the result of training.

    Raises:
      TypeError: in the callback: ``evaluate`` returns something else than numbers by name.
    """

    def function(step: int, state: Any, metrics: dict[str, float]) -> None:
        del step
        found = evaluate(state) if evaluate else {}
        if not isinstance(found, Mapping):
            raise TypeError(
                "evaluate must return numbers by name, such as {'error': 0.02}; it returns "
                f"{found!r} ({type(found).__name__})"
            )
        row = metrics | {name: float(value) for name, value in found.items()}
        for writer in writers if is_main_process() else ():
            writer.write(row)

    def close() -> None:
        for writer in writers:
            writer.close()

    return Callback(function, every, at_end=True, close=close)
