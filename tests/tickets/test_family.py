"""Searches side by side are the searches one after another."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from sparsejax.tickets import (
    continuous_sparsification,
    family_step,
    family_tickets,
    found_ticket,
    init_family,
    init_search,
    magnitude_pruning,
    member,
    next_family,
    next_search,
    search_step,
)
from sparsejax.training import fit
from tests.tickets.test_tickets import DATA, START, STEPS, loss

MEMBERS = 8
HYPER = {
    "initial": np.linspace(-0.2, 0.2, MEMBERS).astype(np.float32),
    "penalty": np.geomspace(1e-5, 3e-3, MEMBERS).astype(np.float32),
}
OPTIMIZER = optax.sgd(0.05, momentum=0.9)  # Adam makes much of the last bits of small gradients


def make(hyper):
    # Steep gates make much of the last bits: with a beta of 200 at the end the first three digits
    # of some weights depend on how many members are computed together.
    return continuous_sparsification(STEPS, hyper["initial"], hyper["penalty"], final_beta=20.0)


def start_of(number):
    scale = 1 + 0.1 * number
    return jax.tree.map(lambda leaf: leaf * scale, START)


def family():
    params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(start_of, range(MEMBERS)))
    keys = jax.random.split(jax.random.key(1), MEMBERS)
    return init_family(make, params, OPTIMIZER, keys, HYPER), keys


def run(step, state, turn, rounds=2):
    tickets = []
    for number in range(rounds):
        state = turn(state) if number else state
        state = fit(step, state, DATA, batch_size=32, steps=STEPS, seed=number, batch_axes=())
        tickets.append(state)
    return tickets


@pytest.mark.parametrize("sharded", [False, True])
def test_members_are_the_searches_by_themselves(sharded):
    state, keys = family()
    if sharded:
        mesh = jax.make_mesh((8,), ("members",), axis_types=(AxisType.Auto,))
        cut = NamedSharding(mesh, PartitionSpec("members"))
        whole = NamedSharding(mesh, PartitionSpec())
        state = jax.tree.map(lambda leaf: jax.device_put(leaf, cut if leaf.ndim else whole), state)
    step = family_step(search_step(make, loss, OPTIMIZER, 16))
    ends = run(step, state, jax.jit(lambda state: next_family(make, state, OPTIMIZER)))
    for number in (0, 3, 7):
        hyper = {name: values[number] for name, values in HYPER.items()}
        one = init_search(make, start_of(number), OPTIMIZER, keys[number], hyper)
        alone = run(
            search_step(make, loss, OPTIMIZER, 16), one,
            lambda state: next_search(make, state, OPTIMIZER),
        )  # fmt: skip
        for together, single in zip(ends, alone, strict=True):
            ours = member(together, number)
            close = lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-3)  # noqa: E731
            jax.tree.map(close, ours.params["weights"], single.params["weights"])
            jax.tree.map(close, ours.early, single.early)
            tickets = family_tickets(make, together)
            np.testing.assert_array_equal(
                tickets.mask["kernel"][number], found_ticket(make, single).mask["kernel"]
            )
    left = family_tickets(make, ends[-1]).mask["kernel"].sum(axis=(1, 2))
    assert left[0] != left[-1]
    if sharded:
        assert ends[-1].params["weights"]["kernel"].sharding.is_equivalent_to(cut, 3)


def test_other_members_change_nothing():
    """Each depends on its own start, key and hyperparameters alone."""
    state, _ = family()
    step = jax.jit(family_step(search_step(make, loss, OPTIMIZER)))
    batch = {name: array[:32] for name, array in DATA.items()}
    other = dict(HYPER, penalty=np.r_[HYPER["penalty"][:4], 10 * HYPER["penalty"][4:]])
    changed = state._replace(hyper=jax.tree.map(jnp.asarray, other))
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
    state = init_family(method, params, OPTIMIZER, keys)
    tickets = family_tickets(method, state)
    assert tickets.mask["kernel"].sum(axis=(1, 2)).tolist() == [50, 50]


def test_members_that_are_missing_are_named():
    params = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), START)
    keys = jax.random.split(jax.random.key(0), 3)
    with pytest.raises(ValueError, match="params must have a leading axis of 3 members"):
        init_family(magnitude_pruning(0.5), params, OPTIMIZER, keys)
    three = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), START)
    with pytest.raises(ValueError, match=r"hyper must have a leading axis of 3 members.*\(\)"):
        init_family(make, three, OPTIMIZER, keys, {"initial": 0.0, "penalty": 0.0})
