"""The order and the periods of what happens between steps, against a plain loop over integers."""

import contextlib
import math
import tempfile
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsejax.training import (
    Callback,
    Checkpoints,
    MetricLog,
    StopWhen,
    TrainingDivergedError,
    fit,
    read_metrics,
    report,
    revise,
)


class Counter(NamedTuple):
    """A state of integers, so that a plain loop can repeat its steps, revisions and stop."""

    step: jax.Array
    params: jax.Array


def count_on(state, batch):
    params = (7 * state.params + state.step + batch["x"][0]) % 1009
    return Counter(state.step + 1, params), {"loss": params.astype(jnp.float32)}


START = Counter(jnp.asarray(0, jnp.int32), jnp.asarray(5, jnp.int32))


def revised(state):
    return state._replace(params=(state.params * 3 + 1) % 1009)


class Killed(Exception):
    """In place of a process that dies."""


class Numbers:
    """One number per step; it dies when it is asked for those of step ``dies_at``."""

    batch_size, steps_per_epoch = 1, 4

    def __init__(self, dies_at=math.inf):
        self._dies_at = dies_at

    def block(self, step, count):
        if step + count > self._dies_at:
            raise Killed
        return {"x": np.arange(step, step + count, dtype=np.int32).reshape(count, 1)}, None


def plain_loop(steps, threshold, revise_every, stop_every):
    """The step and the number at which `fit` is to end, the numbers and the losses on the way."""
    number, seen, losses = 5, {}, {}
    for step in range(1, steps + 1):
        number = (7 * number + 2 * (step - 1)) % 1009
        losses[step] = number
        if step % revise_every == 0:
            number = (number * 3 + 1) % 1009
        seen[step] = number
        if step % stop_every == 0 and number < threshold:
            return step, number, seen, losses
    return steps, number, seen, losses


period = st.integers(1, 9)


@settings(max_examples=25, deadline=None)
@given(
    report_every=st.none() | period,
    save_every=period,
    stop_every=st.none() | period,
    revise_every=st.none() | period,
    loop=st.sampled_from(["python", "scan"]),
    threshold=st.sampled_from([0, 30, 300]),
    kills=st.lists(st.integers(1, 24), max_size=2),
    saves=st.booleans(),
)
def test_reports_checkpoints_and_kills_change_nothing(
    report_every, save_every, stop_every, revise_every, loop, threshold, kills, saves
):
    """Training ends where a plain loop ends, whatever is reported, saved or lost on the way."""
    steps = 25
    of_epoch = lambda every: 4 if every is None else every  # noqa: E731
    last, number, seen, losses = plain_loop(
        steps, threshold, of_epoch(revise_every), of_epoch(stop_every)
    )
    reported = []
    evaluate = lambda state: reported.append((int(state.step), int(state.params))) or {}  # noqa: E731
    with tempfile.TemporaryDirectory() as folder:
        arguments = {
            "steps": steps, "loop": loop, "steps_per_call": 3 if loop == "scan" else None,
            "callbacks": [
                revise(revised, revise_every),
                report(MetricLog(folder), evaluate=evaluate, every=report_every),
            ],
            "stop": StopWhen(lambda state: int(state.params) < threshold, stop_every),
            "checkpoints": Checkpoints(folder, every=save_every) if saves else None,
        }  # fmt: skip
        for dies_at in kills if saves else ():
            dies = dies_at < last and last not in arguments["checkpoints"].steps()
            with pytest.raises(Killed) if dies else contextlib.nullcontext():
                fit(count_on, START, Numbers(dies_at), **arguments)
        final = fit(count_on, START, Numbers(), **arguments)
        rows = read_metrics(folder)
    assert (int(final.step), int(final.params)) == (last, number)
    assert all(seen[step] == found for step, found in reported)
    every = of_epoch(report_every)
    due = sorted({*range(every, last + 1, every), last})
    assert [row["step"] for row in rows] == due
    for row in rows:  # the means over the steps since the last multiple of the period
        window = range((row["step"] - 1) // every * every + 1, row["step"] + 1)
        assert row["loss"] == math.fsum(losses[step] for step in window) / len(window)


@pytest.mark.parametrize("how", [{}, {"save": 20}, {"report": 7}])
def test_a_run_stops_at_the_same_step_whatever_is_logged(how, tmp_path):
    enough = lambda state: int(state.step) >= 14  # noqa: E731
    arguments = {
        "steps": 100,
        "checkpoints": Checkpoints(tmp_path, every=how["save"]) if "save" in how else None,
        "callbacks": [report(every=how.get("report"))],
    }
    assert int(fit(count_on, START, Numbers(), stop=StopWhen(enough), **arguments).step) == 16
    arguments["checkpoints"] = None
    final = fit(count_on, START, Numbers(), stop=StopWhen(enough, every=5), **arguments)
    assert int(final.step) == 15


def test_callbacks_run_in_their_order_then_those_of_the_end_and_all_are_closed():
    calls = []

    def note(name, **how):
        return Callback(
            lambda step, state, metrics: calls.append((name, step)),
            close=lambda: calls.append((name, "closed")),
            **how,
        )

    callbacks = [note("end", every=4, at_end=True), note("two", every=2), note("three", every=3)]
    fit(count_on, START, Numbers(), steps=6, callbacks=callbacks)
    assert calls == [
        ("two", 2), ("three", 3), ("end", 4), ("two", 4), ("two", 6), ("three", 6), ("end", 6),
        ("end", "closed"), ("two", "closed"), ("three", "closed"),
    ]  # fmt: skip
    calls.clear()
    with pytest.raises(Killed):
        fit(count_on, START, Numbers(dies_at=3), steps=6, callbacks=callbacks)
    closed = [("end", "closed"), ("two", "closed"), ("three", "closed")]
    assert calls == [("two", 2), ("three", 3), *closed]


def test_metrics_are_those_of_the_callbacks_own_period():
    seen = {2: [], 3: []}
    callbacks = [
        Callback(lambda step, state, metrics, every=every: seen[every].append(metrics), every)
        for every in seen
    ]
    rate = lambda step: 0.5 / (step + 1)  # noqa: E731
    fit(count_on, START, Numbers(), steps=6, callbacks=callbacks, learning_rate=rate)
    losses = plain_loop(6, 0, 100, 100)[3]
    for every, rows in seen.items():
        assert [row["step"] for row in rows] == list(range(every, 7, every))
        for row in rows:
            now = row["step"]
            assert row["loss"] == math.fsum(losses[now - n] for n in range(every)) / every
            assert (row["epoch"], row["learning_rate"]) == (now / 4, 0.5 / now)
            assert row["seconds"] >= 0


def test_without_callbacks_a_loss_that_is_not_finite_still_ends_training():
    def broken(state, batch):
        state, metrics = count_on(state, batch)
        return state, {"loss": jnp.where(state.step == 7, jnp.nan, metrics["loss"])}

    with pytest.raises(TrainingDivergedError, match="the loss is nan at step 6; no checkpoint"):
        fit(broken, START, Numbers(), steps=100)


@pytest.mark.parametrize("value", [-2, 0, 2.5])
def test_bad_arguments_are_named(value, tmp_path):
    bad = {
        "steps_per_call": {"steps_per_call": value},
        r"callbacks\[1\].every": {"callbacks": [report(), revise(revised, value)]},
        "stop.every": {"stop": StopWhen(bool, value)},
        "checkpoints.every": {"checkpoints": Checkpoints(tmp_path, every=value)},
    }
    for name, arguments in bad.items():
        with pytest.raises(ValueError, match=f"{name} must be an integer >= 1; got {value}"):
            fit(count_on, START, Numbers(), steps=3, **arguments)


def convolve(state, batch):
    weight = jnp.ones((1, 1, 1)) * batch["x"]
    loss = jax.lax.conv(jnp.ones((1, 1, 4)), weight, (1,), "VALID").sum()
    return Counter(state.step + 1, state.params), {"loss": loss}


def convolve_elsewhere(state, batch):
    return jax.lax.platform_dependent(state, batch, cpu=count_on, default=convolve)


@pytest.mark.parametrize("function", [count_on, convolve, jax.jit(convolve), convolve_elsewhere])
def test_auto_scans_unless_xla_convolves_on_a_cpu(function):
    counts, traces = [], []

    class Spied(Numbers):
        def block(self, step, count):
            counts.append(count)
            return super().block(step, count)

    def step(state, batch):
        traces.append(step)
        return function(state, batch)

    state = fit(step, START, Spied(), steps=8)
    assert int(state.step) == 8
    slow = function not in (count_on, convolve_elsewhere) and jax.default_backend() == "cpu"
    assert counts == ([4, *[1] * 8] if slow else [4, 4])  # one look at a scan, then one by one
    assert len(traces) == 1
    counts.clear()
    fit(step, START, Spied(), steps=8, steps_per_call=2)
    assert counts == [2] * 4


def test_bad_loops_are_named():
    for loop in ("while", None):
        with pytest.raises(ValueError, match="loop must be 'auto', 'python', 'scan' or a function"):
            fit(count_on, START, Numbers(), steps=3, loop=loop)
    with pytest.raises(ValueError, match="steps_per_call must be 1 with loop='python'.*got 2"):
        fit(count_on, START, Numbers(), steps=3, loop="python", steps_per_call=2)
    with pytest.raises(ValueError, match="steps must be an integer >= 0; got -1"):
        fit(count_on, START, Numbers(), steps=-1)
    with pytest.raises(TypeError, match=r"batches must be Batches\(.*; got list"):
        fit(count_on, START, [{"x": np.zeros(3)}], steps=1)
    with pytest.raises(TypeError, match=r"state must have a step and params.*; got tuple"):
        fit(count_on, tuple(START), Numbers(), steps=1)
    with pytest.raises(TypeError, match="step must be a function .*; got NoneType"):
        fit(None, START, Numbers(), steps=1)
    wrong = {"callbacks": report(), "stop": bool, "checkpoints": "folder"}
    for name, value in wrong.items():
        with pytest.raises(TypeError, match=f"{name} must be .*; got "):
            fit(count_on, START, Numbers(), steps=1, **{name: value})
    with pytest.raises(TypeError, match=r"callbacks\[0\] must be made by .*; got builtin_function"):
        fit(count_on, START, Numbers(), steps=1, callbacks=[print])


def test_a_metric_that_is_no_scalar_is_named():
    def step(state, batch):
        state, metrics = count_on(state, batch)
        return state, metrics | {"all": batch["x"]}

    with pytest.raises(ValueError, match=r"the metric 'all' has shape \(\d"):
        fit(step, START, Numbers(), steps=1)
    with pytest.raises(TypeError, match=r"evaluate must return numbers by name.* returns 0.5"):
        report(evaluate=lambda state: 0.5).function(1, START, {})
