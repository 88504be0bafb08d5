"""Searches side by side are the searches one after another."""

import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from sparsejax.tickets import (
    continuous_sparsification,
    found_ticket,
    init_population,
    init_search,
    magnitude_pruning,
    member,
    next_population,
    next_search,
    population_scan,
    population_step,
    population_tickets,
    search_step,
    shard_population,
)
from sparsejax.training import Batches, Checkpoints, MetricLog, fit, report
from tests.tickets.test_tickets import DATA, START, STEPS, loss

MEMBERS = 8
HYPER = {
    "initial": np.linspace(-0.2, 0.2, MEMBERS).astype(np.float32),
    "penalty": np.geomspace(1e-5, 3e-3, MEMBERS).astype(np.float32),
}
OPTIMIZER = optax.sgd(0.05, momentum=0.9)  # Adam makes much of the last bits of small gradients


def make(hyper):
    return continuous_sparsification(STEPS, hyper["initial"], hyper["penalty"], final_beta=20.0)


def start_of(number, dtype=jnp.float32):
    scale = 1 + 0.1 * number
    return jax.tree.map(lambda leaf: leaf.astype(dtype) * scale, START)


def population(dtype=jnp.float32):
    starts = [start_of(number, dtype) for number in range(MEMBERS)]
    params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)
    keys = jax.random.split(jax.random.key(1), MEMBERS)
    hyper = {name: values.astype(dtype) for name, values in HYPER.items()}
    return init_population(make, params, OPTIMIZER, keys, hyper), keys


def float64(arrays):
    return {name: array.astype(np.float64) for name, array in arrays.items()}


def run(step, state, turn, rounds=2, loop="auto", data=DATA, steps_per_call=None):
    tickets = []
    for number in range(rounds):
        state = turn(state) if number else state
        state = fit(
            step,
            state,
            Batches(data, 32, number),
            steps=STEPS,
            batch_axes=(),
            loop=loop,
            steps_per_call=steps_per_call,
        )
        tickets.append(state)
    return tickets


pytestmark = pytest.mark.optimized  # a member and a single search must agree to the last bit

SINGLE = search_step(make, loss, OPTIMIZER, 16)
MESH = jax.make_mesh((8,), ("members",), axis_types=(AxisType.Auto,))
PAIRS = jax.make_mesh((4,), ("members",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])


@pytest.fixture(scope="module")
def alone():
    """Weights, weights to rewind to and masks of single searches after each round, in float64."""
    found, data = {}, float64(DATA)
    with jax.enable_x64(True):
        _, keys = population(jnp.float64)
        turn = jax.jit(lambda state: next_search(make, state, OPTIMIZER))
        for number in (0, 3, 7):
            hyper = {name: values[number] for name, values in float64(HYPER).items()}
            one = init_search(make, start_of(number, jnp.float64), OPTIMIZER, keys[number], hyper)
            found[number] = [
                jax.device_get(
                    (
                        end.params["weights"],
                        end.search.rewind_params,
                        found_ticket(make, end).mask["kernel"],
                    )
                )
                for end in run(SINGLE, one, turn, data=data)
            ]
    return found


# Written out, a program is as long as it has steps, and XLA takes as long for it.
@pytest.mark.parametrize(
    ("step", "loop", "mesh", "steps_per_call"),
    [
        (population_step(SINGLE), "scan", None, None),
        (population_step(SINGLE), "scan", MESH, None),
        (SINGLE, population_scan(), None, None),
        (SINGLE, population_scan(vmap_size=4), None, None),
        (SINGLE, population_scan(vmap_size=2, unroll=True), None, 2),
        (SINGLE, population_scan(MESH), MESH, None),
        (SINGLE, population_scan(PAIRS, vmap_size=2), PAIRS, None),
    ],
)
def test_members_are_the_searches_by_themselves(step, loop, mesh, steps_per_call, alone):
    """In float64: gates make much of the last bits, which depend on what is computed together."""
    with jax.enable_x64(True):
        state, _ = population(jnp.float64)
        if mesh is not None:
            cut = NamedSharding(mesh, PartitionSpec("members"))
            state = shard_population(state, mesh)
        turn = jax.jit(lambda state: next_population(make, state, OPTIMIZER))
        ends = run(step, state, turn, loop=loop, data=float64(DATA), steps_per_call=steps_per_call)
        masks = [population_tickets(make, end).mask["kernel"] for end in ends]
    close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-10)
    for number, rounds in alone.items():
        for end, mask, (weights, rewind_params, single_mask) in zip(
            ends, masks, rounds, strict=True
        ):
            ours = jax.tree.map(
                lambda leaf, number=number: leaf[number],
                jax.device_get((end.params["weights"], end.search.rewind_params)),
            )
            jax.tree.map(close, ours, (weights, rewind_params))
            np.testing.assert_array_equal(mask[number], single_mask)
    left = masks[-1].sum(axis=(1, 2))
    assert left[0] != left[-1]
    if mesh is not None:
        assert ends[-1].params["weights"]["kernel"].sharding.is_equivalent_to(cut, 3)


def test_one_after_another_is_each_alone_to_the_bit():
    """Where nothing is computed together, rounding is that of a single search."""
    state, keys = population()
    turn = jax.jit(lambda state: next_population(make, state, OPTIMIZER))
    end = run(SINGLE, state, turn, loop=population_scan())[-1]
    hyper = {name: values[5] for name, values in HYPER.items()}
    one = init_search(make, start_of(5), OPTIMIZER, keys[5], hyper)
    alone = run(SINGLE, one, jax.jit(lambda state: next_search(make, state, OPTIMIZER)))[-1]
    ours = member(end, 5)
    for name in ("step", "params", "opt_state", "search"):
        jax.tree.map(np.testing.assert_array_equal, getattr(ours, name), getattr(alone, name))


@pytest.mark.parametrize(("steps", "members"), [(1, 3), (2, 1)])
def test_written_out_there_is_no_loop(steps, members):
    """XLA for CPUs computes the gradients of convolutions sixty times slower inside one."""
    params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(start_of, range(members)))
    keys = jax.random.split(jax.random.key(1), members)
    hyper = {name: values[:members] for name, values in HYPER.items()}
    state = init_population(make, params, OPTIMIZER, keys, hyper)
    rows = jnp.arange(32 * steps).reshape(steps, 32)

    def take(state, arrays, row):
        return SINGLE(state, jax.tree.map(lambda array: array[row], arrays))

    def block(unroll):
        scan = population_scan(unroll=unroll)
        return lambda state: scan(take, state, jax.tree.map(jnp.asarray, DATA), rows)

    loops = re.compile(r"(scan|while)\[")
    assert loops.search(str(jax.make_jaxpr(block(False))(state)))
    assert not loops.search(str(jax.make_jaxpr(block(True))(state)))
    (looped, means), (unrolled, same_means) = (jax.jit(block(u))(state) for u in (False, True))
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)  # noqa: E731
    jax.tree.map(close, looped.params, unrolled.params)
    jax.tree.map(close, means, same_means)


def normalised(params, statistics, batch, key):
    """A network with a running mean, as batch normalisation keeps it."""
    del key
    mean = batch["y"].mean(axis=0)
    error = batch["x"] @ params["kernel"] + params["bias"] - (batch["y"] - mean)
    return (error**2).mean(), ({}, 0.9 * statistics + 0.1 * mean)


def test_running_statistics_go_along():
    params = jax.tree.map(lambda *leaves: jnp.stack(leaves), START, START)
    keys = jax.random.split(jax.random.key(0), 2)
    method = magnitude_pruning(0.5)
    starts = jnp.stack([jnp.zeros(5), jnp.ones(5)])
    state = init_population(method, params, OPTIMIZER, keys, statistics=starts)
    step = search_step(method, normalised, OPTIMIZER)
    state = fit(step, state, Batches(DATA, 32), steps=8, loop=population_scan())
    order = np.random.default_rng([0, 0]).permutation(256).reshape(8, 32)
    wanted = np.asarray(starts, np.float64)
    for rows in order:
        wanted = 0.9 * wanted + 0.1 * DATA["y"][rows].mean(axis=0)
    np.testing.assert_allclose(state.statistics, wanted, rtol=1e-5)
    later = next_population(method, state, OPTIMIZER)
    np.testing.assert_array_equal(later.statistics, state.statistics)
    with pytest.raises(ValueError, match="statistics must have a leading axis of 2 members"):
        init_population(method, params, OPTIMIZER, keys, statistics=jnp.zeros(5))


def test_a_family_killed_resumes_to_the_same_bits(tmp_path):
    state, _ = population()
    batches, loop = Batches(DATA, 32), population_scan()
    arguments = {
        "loop": loop,
        "callbacks": [report(MetricLog(tmp_path))],
        "checkpoints": Checkpoints(tmp_path, every=20),
    }
    whole = fit(SINGLE, state, batches, steps=60, loop=loop)
    fit(SINGLE, state, batches, steps=47, **arguments)
    resumed = fit(SINGLE, state, batches, steps=60, **arguments)
    leaves = (jax.tree.leaves(tree._replace(key=0)) for tree in (whole, resumed))
    for a, b in zip(*leaves, strict=True):
        np.testing.assert_array_equal(a, b)
    early = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert {f"loss/{number}" for number in range(MEMBERS)} <= set(early[0])


def test_blocks_of_any_length_give_the_same_bits():
    start, _ = population()
    rows, loop = jnp.arange(256).reshape(8, 32), population_scan()

    @jax.jit
    def block(state, rows):
        take = lambda state, arrays, row: SINGLE(state, {k: v[row] for k, v in arrays.items()})  # noqa: E731
        return loop(take, state, {k: jnp.asarray(v) for k, v in DATA.items()}, rows)

    whole, means = block(start, rows)
    same = np.testing.assert_array_equal
    for lengths in ((7, 1), (1, 7), (3, 5), (1,) * 8):
        state, parts = start, []
        for part in np.split(rows, np.cumsum(lengths)[:-1]):
            state, found = block(state, part)
            parts.append(found)
        jax.tree.map(same, whole._replace(key=0), state._replace(key=0))
        jax.tree.map(lambda all_, *some: same(all_, np.concatenate(some)), means, *parts)


def test_numbers_of_members_that_cannot_be_are_named():
    state, _ = population()
    with pytest.raises(ValueError, match="vmap_size must be an integer >= 1; got 0"):
        population_scan(vmap_size=0)
    with pytest.raises(ValueError, match="vmap_size must divide 8 members; got 3"):
        fit(SINGLE, state, Batches(DATA, 32), steps=2, loop=population_scan(vmap_size=3))
    two = jax.make_mesh((2, 4), ("members", "other"))
    with pytest.raises(ValueError, match="mesh must have one axis, of members"):
        population_scan(two)
    with pytest.raises(ValueError, match="mesh must have one axis, of members"):
        shard_population(state, two)


def test_other_members_change_nothing():
    """Each depends on its own start, key and hyperparameters alone."""
    state, _ = population()
    step = jax.jit(population_step(search_step(make, loss, OPTIMIZER)))
    batch = {name: array[:32] for name, array in DATA.items()}
    other = dict(HYPER, penalty=np.r_[HYPER["penalty"][:4], 10 * HYPER["penalty"][4:]])
    changed = state._replace(search=state.search._replace(hyper=jax.tree.map(jnp.asarray, other)))
    one, metrics = step(state, batch)
    two, _ = step(changed, batch)
    gates = [np.asarray(s.params["gates"]["kernel"]) for s in (one, two)]
    np.testing.assert_array_equal(gates[0][:4], gates[1][:4])
    assert set(metrics) == {"loss"} | {f"loss/{number}" for number in range(MEMBERS)}
    each = [float(metrics[f"loss/{number}"]) for number in range(MEMBERS)]
    assert float(metrics["loss"]) == pytest.approx(np.mean(each))


def test_a_method_without_hyperparameters():
    params = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), START)
    keys = jax.random.split(jax.random.key(0), 2)
    method = magnitude_pruning(0.5)
    state = init_population(method, params, OPTIMIZER, keys)
    tickets = population_tickets(method, state)
    assert tickets.mask["kernel"].sum(axis=(1, 2)).tolist() == [50, 50]


def test_members_that_are_missing_are_named():
    params = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), START)
    keys = jax.random.split(jax.random.key(0), 3)
    with pytest.raises(ValueError, match="params must have a leading axis of 3 members"):
        init_population(magnitude_pruning(0.5), params, OPTIMIZER, keys)
    three = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), START)
    with pytest.raises(ValueError, match=r"hyper must have a leading axis of 3 members.*\(\)"):
        init_population(make, three, OPTIMIZER, keys, {"initial": 0.0, "penalty": 0.0})
