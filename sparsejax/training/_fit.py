"""The training loop: a jitted step, called one at a time or scanned, with callbacks in between."""

from __future__ import annotations

import operator
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sparsejax._states import fresh
from sparsejax.training._arguments import check_types
from sparsejax.training._batches import Batches, BatchSource, placed
from sparsejax.training._callbacks import Callback, StopWhen
from sparsejax.training._calls import (
    LoopFunction,
    LoopName,
    check_loop,
    compiled,
    scan_is_slow,
    shardings_of,
)
from sparsejax.training._checkpoints import Checkpoints
from sparsejax.training._history import MetricHistory
from sparsejax.training._make_step import AnyState, StepFunction
from sparsejax.training._meshes import batch_sharding, mesh_of

_MOST_STEPS_PER_CALL = 256
_EPOCHS_BETWEEN_CHECKPOINTS = 10


class TrainingDivergedError(FloatingPointError):
    """The loss or the parameters stopped being finite."""


def fit(
    step: StepFunction[AnyState],
    state: AnyState,
    batches: Batches | BatchSource,
    *,
    steps: int,
    callbacks: Sequence[Callback] = (),
    stop: StopWhen | None = None,
    loop: LoopName | LoopFunction = "auto",
    steps_per_call: int | None = None,
    checkpoints: Checkpoints | None = None,
    learning_rate: optax.Schedule | None = None,
    batch_axes: str | Sequence[str] | None = None,
    donate_state: bool = False,
) -> AnyState:
    """Train to ``steps`` steps, or until ``stop``, and return the last state.

    ::

        state = fit(
            make_step(loss, optimizer),
            init_state(params, optimizer, jax.random.key(0)),
            Batches({"image": images, "label": labels}, batch_size=128),
            steps=10_000,
            callbacks=[report(MetricLog(folder), evaluate=evaluate, every=500)],
            checkpoints=Checkpoints(folder / "checkpoints", every=2_000),
        )

    After a step the callbacks that are due run in the order given; then ``stop`` is asked; at the
    end the callbacks with ``at_end`` follow that have not just run; then the checkpoint is written.

    The result depends on the arguments alone. It does not depend on ``loop`` and
    ``steps_per_call``, on where the data lives, on reports and checkpoints, or on how often the run
    was killed and resumed: each of these gives the same bits (XLA's own convolutions are rounded
    differently inside a scan on a CPU).

    A state that `init_state` put on a mesh is trained there and keeps its sharding; each batch is
    sharded over the mesh. With several processes (see `initialize_distributed`) all call this with
    the same arguments and a folder that all of them can reach. A checkpoint does not depend on the
    mesh or on the number of processes: it can be resumed on others, to the same numbers within
    rounding.

    Args:
      step: ``(state, batch) -> (state, metrics)``, as `make_step` builds it; ``metrics`` are
        scalars by name, and ``loss`` is among them. Pass the same object to several runs, or the
        same method of one object, and it is compiled once; what it reads from elsewhere, such as
        attributes, must not change in between. A callable object that cannot be weakly referenced,
        of a class with ``__slots__``, is compiled for each run.
      state: the state to start from, which is kept intact (the loop works on a copy) unless
        ``donate_state``: a `TrainState`, or any pytree of arrays with a ``step`` and ``params``.
      batches: `Batches` of arrays in memory, or a `BatchSource`.
      steps: the number of the last step.
      callbacks: what happens between steps, each with a period of its own (see `Callback`, `revise`
        and `report`).
      stop: when to end early, such as on a plateau.
      loop: ``"python"`` calls each step by itself; ``"scan"`` takes several steps in one call, by
        ``jax.lax.scan``; ``"auto"`` scans unless the step convolves by XLA on a CPU, where scans
        of it are slow. Or a function ``(take, state, arrays, rows) -> (state, metrics)``, called
        inside ``jit``, that calls ``take(state, arrays, row) -> (state, metrics)`` once for each
        row of ``rows`` and gives metrics a leading axis of steps;
        ``sparsejax.tickets.population_scan`` is for the members of a population. Pass the same
        object to several runs and it is compiled once.
      steps_per_call: steps in one call, which never extends past an epoch or the next callback;
        default an epoch, at most 256. If it is given, ``"auto"`` scans.
      checkpoints: training continues from the newest undamaged checkpoint in it, if there is one,
        and saves a checkpoint after every ``checkpoints.every``-th step and at the end. Everything
        is in a checkpoint: parameters, optimizer state, PRNG key, the place in the data, and the
        metrics that have not been reported. It is closed when `fit` ends.
      learning_rate: the schedule in use, for the metrics of callbacks and the message of a failure.
      batch_axes: the mesh axes over which a batch is sharded; default all.
      donate_state: whether the loop works on the arrays of ``state`` themselves, so that a large
        state is held once while it trains. All of them are deleted, whoever else refers to them: by
        the first step, or when a checkpoint has been restored in their place. If no step is taken
        and there is no checkpoint, they are those of the result. A state that is donated must hold
        no array twice, as those of `init_state` do not.

    Returns:
      The state after the last step.

    Raises:
      TypeError: an argument is of another type.
      ValueError: an argument is out of range, or a metric is not a scalar.
      TrainingDivergedError: the loss or a parameter is NaN or infinite; the message names the step,
        the learning rate and the last good checkpoint.
      CheckpointError: a checkpoint cannot be written, or none can be read.
    """
    check_types(step, state, batches, callbacks, stop, checkpoints)
    sharding = batch_sharding(mesh_of(state), batch_axes, batches.batch_size)
    source = placed(batches, sharding)
    epoch = source.steps_per_epoch
    steps = _integer("steps", steps, 0)
    check_loop(loop, steps_per_call)
    most = _period("steps_per_call", steps_per_call, min(epoch, _MOST_STEPS_PER_CALL))
    calls, function = compiled(step), loop if callable(loop) else None
    if loop == "auto" and steps_per_call is not None:
        loop = "scan"
    elif loop == "python":
        most = 1
    callbacks = [
        callback._replace(every=_period(f"callbacks[{place}].every", callback.every, epoch))
        for place, callback in enumerate(callbacks)
    ]
    periods: list[int] = [callback.every for callback in callbacks]  # type: ignore[misc]
    stop_every = _period("stop.every", stop.every if stop else None, epoch)
    save_every = _period(
        "checkpoints.every",
        checkpoints.every if checkpoints else None,
        _EPOCHS_BETWEEN_CHECKPOINTS * epoch,
    )
    boundaries = [epoch, *periods]
    boundaries += [stop_every] * (stop is not None) + [save_every] * (checkpoints is not None)

    def ends(state: AnyState, now: int) -> bool:
        """Whether ``stop`` is due at this step, and says so."""
        return bool(stop and now and now % stop_every == 0 and stop.condition(state))

    try:
        found = checkpoints.restore(state) if checkpoints else None
        if found and donate_state:
            _delete(state)
        # The loop donates its state.
        state = found.state if found else _as_arrays(state) if donate_state else fresh(state)
        seconds = found.extra["seconds"] if found else 0.0
        history = MetricHistory(int(state.step), found.extra["metrics"] if found else None)
        shardings, now = shardings_of(state), int(state.step)
        over = now >= steps or ends(state, now)
        start = time.perf_counter() - seconds

        def call(state: AnyState, callback: Callback, period: int) -> AnyState:
            metrics = history.means(since=(now - 1) // period * period)
            metrics |= {"step": now, "epoch": now / epoch}
            metrics["seconds"] = time.perf_counter() - start
            if learning_rate:
                metrics["learning_rate"] = float(np.asarray(learning_rate(now - 1)))
            new = callback.function(now, state, metrics)
            # A copy, since the next call donates it and arrays in it may be shared.
            return state if new is None else fresh(new)

        while not over:
            boundary = min(steps, *(_next_multiple(now, every) for every in boundaries))
            while now < boundary:
                count = min(most, boundary - now)
                taken = source.block(now, count)
                if loop == "auto" and count > 1:
                    loop = "scan"
                    if scan_is_slow(calls, state, *taken, shardings):
                        loop, most = "python", 1
                        continue
                state, metrics = calls(state, *taken, shardings, function)
                history.append(metrics)
                now += count
            if (bad := history.collect()) is not None:
                what = f"the loss is {history.loss(bad)}"
                raise TrainingDivergedError(_diverged(what, bad, checkpoints, learning_rate))
            due = [now % every == 0 for every in periods]
            for callback, period, is_due in zip(callbacks, periods, due, strict=True):
                if is_due:
                    state = call(state, callback, period)
            over = now >= steps or ends(state, now)
            for callback, period, was_due in zip(callbacks, periods, due, strict=True):
                if over and callback.at_end and not was_due:
                    state = call(state, callback, period)
            history.forget(min([now // every * every for every in periods], default=now))
            if checkpoints and (over or now % save_every == 0):
                if not _all_finite(state.params):  # must not push out a checkpoint that is
                    what = "a parameter is not finite"
                    raise TrainingDivergedError(
                        _diverged(what, now - 1, checkpoints, learning_rate)
                    )
                extra = {"seconds": time.perf_counter() - start, "metrics": history.values()}
                checkpoints.save(now, state, extra)
    finally:
        for callback in callbacks:
            callback.close()
        if checkpoints:
            checkpoints.close()
    return state


def _as_arrays(state: AnyState) -> AnyState:
    """Return the state with arrays of JAX for all other leaves."""
    arrays: AnyState = jax.tree.map(
        lambda leaf: leaf if isinstance(leaf, jax.Array) else jnp.copy(leaf), state
    )
    return arrays


def _delete(state: Any) -> None:
    """Free the arrays of a state, whoever refers to them."""
    for leaf in jax.tree.leaves(state):
        if isinstance(leaf, jax.Array):
            leaf.delete()


@jax.jit
def _all_finite(tree: Any) -> jax.Array:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def _diverged(
    what: str, step: int, checkpoints: Checkpoints | None, learning_rate: optax.Schedule | None
) -> str:
    rate = (
        f" with learning rate {float(np.asarray(learning_rate(step))):.6g}" if learning_rate else ""
    )
    last = "no checkpoint was written yet"
    if checkpoints and (saved := checkpoints.steps()):
        last = f"the last good checkpoint is that of step {saved[-1]} in {checkpoints.folder}"
    return f"{what} at step {step}{rate}; {last}"


def _next_multiple(now: int, every: int) -> int:
    return (now // every + 1) * every


def _period(name: str, value: int | None, default: int) -> int:
    return default if value is None else _integer(name, value, 1)


def _integer(name: str, value: int, least: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise ValueError(f"{name} must be an integer >= {least}; got {value!r}")
    return number
