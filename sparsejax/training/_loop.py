"""The training loop: a jitted step, called one at a time or scanned in blocks."""

from __future__ import annotations

import functools
import math
import operator
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from tqdm import tqdm

from sparsejax._states import fresh
from sparsejax.training._batches import ArrayData, Batches, BatchSource, PlacedSource
from sparsejax.training._checkpoints import Checkpoints
from sparsejax.training._folder import init_run_dir
from sparsejax.training._meshes import batch_sharding, mesh_of
from sparsejax.training._metrics import MetricLog
from sparsejax.training._processes import is_main_process
from sparsejax.training._state import AnyState, Metrics, State, StepFunction

_SHOWN = ("loss", "error", "density")  # in the progress bar, where a row has them


class TrainingDivergedError(FloatingPointError):
    """The loss or the parameters stopped being finite."""


def fit(
    step: StepFunction[AnyState],
    state: AnyState,
    data: ArrayData | BatchSource,
    *,
    batch_size: int | None = None,
    steps: int,
    seed: int = 0,
    block: int | None = None,
    evaluate: Callable[[AnyState], Mapping[str, float]] | None = None,
    report_every: int | None = None,
    folder: str | os.PathLike[str] | None = None,
    config: Mapping[str, Any] | None = None,
    checkpoint_every: int | None = None,
    resume: bool = False,
    learning_rate: optax.Schedule | None = None,
    name: str = "",
    device_bytes: int = 2**31,
    batch_axes: str | Sequence[str] | None = None,
    stop_when: Callable[[AnyState], bool] | None = None,
    stop_every: int | None = None,
    revise: Callable[[AnyState], AnyState] | None = None,
    revise_every: int | None = None,
    scan: Callable[..., tuple[Any, Any]] | None = None,
) -> AnyState:
    """Train to ``steps`` steps, or until ``stop_when``, and return the last state.

    The result depends on the arguments alone: not on ``block``, on where the data lives, or on how
    often the run was killed and resumed; each of these gives the same bits. Reports, evaluations
    and checkpoints never change it, however often they are made.

    A state that `init_state` put on a mesh is trained there and stays cut as it is; the batch is
    dealt out over the mesh. With several processes (see `initialize_distributed`) all call this
    with the same arguments and a folder that all of them can reach. A checkpoint does not depend on
    the mesh or on the number of processes: it can be resumed on others, to the same numbers within
    rounding.

    Args:
      step: ``(state, batch) -> (state, metrics)``, as `make_step` builds it. Pass the same object
        to several runs and it is compiled once.
      state: the state to start from (kept intact: the loop works on a copy): a `TrainState`, or any
        pytree of arrays with a ``step`` and ``params``.
      data: arrays of equal length by name, see `Batches`; or a `BatchSource`.
      batch_size: examples a step, over all devices together (a `BatchSource` has its own).
      steps: the number of the last step.
      seed: of the order of the examples.
      block: steps a call. 1 calls a jitted step from Python, best for XLA's own convolutions on a
        CPU (not for those of `LeNet5`); more are scanned in one call. Default: an epoch, at most
        256.
      evaluate: ``state -> numbers``, added to each report.
      report_every: steps between reports; default an epoch. A report holds the means of the step's
        metrics since the last one. There is one at every checkpoint and at the end, too.
      folder: where to keep ``config.json``, ``metrics.jsonl``, ``tensorboard/`` and
        ``checkpoints/``; nothing is written without one.
      config: what defines the run, as JSON values; a folder belongs to one configuration.
      checkpoint_every: steps between checkpoints; default 10 epochs. The last state is always
        saved. Everything is in it: parameters, optimizer state, PRNG key, the place in the data.
      resume: continue from the newest undamaged checkpoint in ``folder``, if there is one.
      learning_rate: the schedule in use, for the reports and for the message of a failure.
      name: shown in the progress bar (on a terminal only).
      device_bytes: see `Batches`.
      batch_axes: the mesh axes over which a batch is dealt out; default all.
      stop_when: ``state -> bool``, asked after every ``stop_every``-th step: whether training is
        over before ``steps``, such as on a plateau. A function of the state alone, so that a
        resumed run stops where it would have.
      stop_every: steps between two calls of ``stop_when``; default an epoch.
      revise: ``state -> state``, applied after every ``revise_every``-th step, before
        ``stop_when``, a report or a checkpoint of that step: for what a jitted step cannot do, such
        as pruning by the accuracy on a split that is read from disk. The result has the leaves'
        shapes and dtypes; a function of the state alone, so that a resumed run is revised as it
        would have been.
      revise_every: steps between two calls of ``revise``; default an epoch.
      scan: ``(take, state, arrays, rows) -> (state, metrics)``, how the steps of a block are taken,
        called inside ``jit``: ``take(state, arrays, row) -> (state, metrics)`` once for each row of
        ``rows``; metrics gain a leading axis of steps. Default by ``jax.lax.scan``;
        ``sparsejax.tickets.population_scan`` is for the members of a population. Pass the same
        object to several runs and it is compiled once.

    Raises:
      ValueError: an argument is out of range, or the folder is not this run's.
      TrainingDivergedError: the loss or a parameter is NaN or infinite; names the step, the
        learning rate and the last good checkpoint.
      CheckpointError: a checkpoint cannot be written, or none can be read.
    """
    batches = _batches(data, batch_size, seed, device_bytes, mesh_of(state), batch_axes)
    epoch = batches.steps_per_epoch
    block = _at_least_one("block", block, min(epoch, 256))
    report_every = _at_least_one("report_every", report_every, epoch)
    checkpoint_every = _at_least_one("checkpoint_every", checkpoint_every, 10 * epoch)
    stop_every = _at_least_one("stop_every", stop_every, epoch)
    revise_every = _at_least_one("revise_every", revise_every, epoch)
    # Only what happens at all ends a block.
    periods = [report_every]
    periods += [checkpoint_every] * (folder is not None)
    periods += [stop_every] * (stop_when is not None) + [revise_every] * (revise is not None)

    def stops(state: AnyState, now: int) -> bool:
        """Whether ``stop_when`` is due at this step, and says so."""
        return bool(stop_when and now and now % stop_every == 0 and stop_when(state))

    state = fresh(state)  # the loop donates its state
    checkpoints, log, seconds = None, None, 0.0
    if folder is not None:
        folder = init_run_dir(folder, config or {}, resume)
        checkpoints = Checkpoints(folder / "checkpoints")
        found = checkpoints.restore(state) if resume else None
        if found:
            state, seconds = found.state, found.extra["seconds"]
        if is_main_process():
            log = MetricLog(folder, after_step=int(state.step))
    shardings = _shardings(state)
    now = int(state.step)
    hidden = None if is_main_process() else True
    bar = tqdm(
        total=steps, initial=now, desc=name, unit="step", disable=hidden, leave=False, miniters=1
    )
    start = time.perf_counter() - seconds
    pending: list[Metrics] = []
    try:
        done = now >= steps or stops(state, now)
        while not done:
            boundary = min(steps, *(_next_multiple(now, every) for every in periods))
            while now < boundary:
                count = min(block, boundary - now, _next_multiple(now, epoch) - now)
                state, metrics = _run_block(
                    step, state, *batches.block(now, count), shardings, scan
                )
                pending.append(metrics)
                now += count
            if revise and now % revise_every == 0:
                # A copy, since the next block donates it and arrays in it may be shared.
                state = fresh(revise(state))
            done = now >= steps or stops(state, now)
            saves = checkpoints is not None and (done or now % checkpoint_every == 0)
            if not (done or saves or now % report_every == 0):
                continue
            row = _means(pending, now, checkpoints, learning_rate)
            pending.clear()
            if evaluate:
                row |= {key: float(value) for key, value in evaluate(state).items()}
            if learning_rate:
                row["learning_rate"] = float(learning_rate(now - 1))
            row |= {"step": now, "epoch": now / epoch, "seconds": time.perf_counter() - start}
            if log:
                log.write(row)
            if checkpoints and saves:
                _check_parameters(state, now, checkpoints, learning_rate)
                checkpoints.save(now, state, {"seconds": row["seconds"]})
            bar.set_postfix({k: f"{row[k]:.4g}" for k in _SHOWN if k in row}, refresh=False)
            bar.update(now - bar.n)
    finally:
        bar.close()
        if log:
            log.close()
        if checkpoints:
            checkpoints.close()
    return state


def _batches(
    data: ArrayData | BatchSource,
    batch_size: int | None,
    seed: int,
    device_bytes: int,
    mesh: Mesh | None,
    batch_axes: str | Sequence[str] | None,
) -> BatchSource:
    if isinstance(data, BatchSource):
        if batch_size not in (None, data.batch_size):
            raise ValueError(
                f"batch_size must be that of data, {data.batch_size}; got {batch_size}"
            )
        return PlacedSource(data, batch_sharding(mesh, batch_axes, data.batch_size))
    if batch_size is None:
        raise ValueError("batch_size must be an integer >= 1; got None")
    sharding = batch_sharding(mesh, batch_axes, batch_size)
    return Batches(data, batch_size, seed, device_bytes, sharding)


def _shardings(state: State) -> tuple[Any, ...] | None:
    """How a state lies on its mesh, so that each step can leave it so; None where there is none."""
    if mesh_of(state) is None:
        return None
    return tuple(leaf.sharding for leaf in jax.tree.leaves(state))


@functools.partial(jax.jit, static_argnames=("step", "shardings", "scan"), donate_argnames="state")
def _run_block(step: StepFunction[AnyState], state: AnyState, arrays, indices, shardings, scan):
    """Take one step for each row of ``indices`` (or of ``arrays`` where there are no indices)."""

    def take(state: AnyState, arrays, row):
        batch = row
        if arrays is not None:
            batch = jax.tree.map(lambda array: _rows_of(array, row), arrays)
        return step(state, batch)

    def hold(state: AnyState) -> AnyState:
        """As it lies on its mesh."""
        if shardings is None:
            return state
        leaves = map(lax.with_sharding_constraint, jax.tree.leaves(state), shardings)
        return jax.tree.unflatten(jax.tree.structure(state), leaves)

    def take_and_hold(state: AnyState, row):
        state, metrics = take(state, arrays, row)
        return hold(state), metrics

    arrays, rows = (None, arrays) if indices is None else (arrays, indices)
    if scan is not None:
        state, metrics = scan(take, state, arrays, rows)
        return hold(state), metrics
    if jax.tree.leaves(rows)[0].shape[0] > 1:
        return lax.scan(take_and_hold, state, rows)
    state, metrics = take_and_hold(state, jax.tree.map(lambda array: array[0], rows))
    return state, jax.tree.map(lambda value: value[None], metrics)


def _rows_of(array: jax.Array, row: jax.Array) -> jax.Array:
    """The examples of a batch, cut over the devices as their indices are."""
    sharding = jax.typeof(row).sharding
    place = None
    if AxisType.Explicit in sharding.mesh.axis_types:
        place = NamedSharding(
            sharding.mesh, PartitionSpec(*sharding.spec, *(None,) * (array.ndim - 1))
        )
    return array.at[row].get(mode="promise_in_bounds", out_sharding=place)


@jax.jit
def _all_finite(tree) -> jax.Array:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def _means(
    pending: list[Metrics],
    now: int,
    checkpoints: Checkpoints | None,
    learning_rate: optax.Schedule | None,
) -> dict[str, float]:
    """Means of the metrics over the steps since the last report, in float64."""
    series = {
        key: np.concatenate([np.asarray(block[key], np.float64) for block in pending])
        for key in pending[0]
    }
    bad = np.flatnonzero(~np.isfinite(series["loss"]))
    if bad.size:
        step = now - len(series["loss"]) + int(bad[0])
        what = f"the loss is {series['loss'][bad[0]]}"
        raise TrainingDivergedError(_diverged(what, step, checkpoints, learning_rate))
    return {key: math.fsum(values) / len(values) for key, values in series.items()}


def _check_parameters(
    state: State, now: int, checkpoints: Checkpoints, learning_rate: optax.Schedule | None
) -> None:
    """A checkpoint that is not finite must not push out one that is."""
    if not _all_finite(state.params):
        what = "a parameter is not finite"
        raise TrainingDivergedError(_diverged(what, now - 1, checkpoints, learning_rate))


def _diverged(
    what: str, step: int, checkpoints: Checkpoints | None, learning_rate: optax.Schedule | None
) -> str:
    rate = f" with learning rate {float(learning_rate(step)):.6g}" if learning_rate else ""
    last = "no checkpoint was written yet"
    if checkpoints and (saved := checkpoints.steps()):
        last = f"the last good checkpoint is that of step {saved[-1]} in {checkpoints.folder}"
    return f"{what} at step {step}{rate}; {last}"


def _next_multiple(now: int, every: int) -> int:
    return (now // every + 1) * every


def _at_least_one(name: str, value: int | None, default: int) -> int:
    if value is None:
        return default
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if number < 1:
        raise ValueError(f"{name} must be an integer >= 1; got {value!r}")
    return number
