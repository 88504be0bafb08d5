"""Every state can be donated: it holds no buffer twice, and none of anybody else's."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sparsejax.tickets import (
    continuous_sparsification,
    fold_scale,
    found_ticket,
    init_population,
    init_search,
    magnitude_pruning,
    member,
    next_population,
    next_search,
    population_step,
    population_tickets,
    random_pruning,
    rewind,
    search_step,
    shard_population,
    stochastic_l0,
)
from tests.tickets.test_tickets import START

METHODS = {
    "magnitude": lambda hyper: magnitude_pruning(hyper["fraction"]),
    "random": lambda hyper: random_pruning(hyper["fraction"]),
    "continuous": lambda hyper: continuous_sparsification(3, -hyper["fraction"]),
    "continued": lambda hyper: continuous_sparsification(3, -hyper["fraction"], rewind=False),
    "stochastic": lambda hyper: stochastic_l0(hyper["fraction"]),
}
OPTIMIZERS = {
    "adam": optax.adam(0.1),
    # Its state starts with the parameters themselves.
    "schedule-free": optax.contrib.schedule_free(optax.sgd(0.1), 0.1),
}
MEMBERS = 4


def loss(params, statistics, batch, key):
    del key
    return ((params["kernel"] - batch) ** 2).sum() + params["bias"].sum(), ({}, statistics + 1)


def buffers(tree):
    """Where the leaves lie on every device."""
    found = []
    for leaf in jax.tree.leaves(tree):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        found += [part.data.unsafe_buffer_pointer() for part in leaf.addressable_shards]
    return found


def own(state, *others):
    """The state, checked."""
    places = buffers(state)
    assert len(places) == len(set(places))
    assert not set(places) & set(buffers(others))
    return state


def stacked(tree):
    return jax.tree.map(lambda leaf: jnp.stack([leaf] * MEMBERS), tree)


@pytest.mark.parametrize(
    ("method", "optimizer"),
    [*((name, "schedule-free") for name in METHODS), ("continuous", "adam")],
)
def test_states_of_a_search(method, optimizer):
    method, optimizer = METHODS[method], OPTIMIZERS[optimizer]
    params = jax.tree.map(jnp.copy, START)
    arguments = params, jax.random.key(3), {"fraction": jnp.float32(0.2)}, jnp.zeros(3)
    params, key, hyper, statistics = arguments
    start = lambda *a: init_search(method, a[0], optimizer, *a[1:])  # noqa: E731
    own(jax.jit(start)(*arguments), arguments)
    state = own(start(*arguments), arguments)
    step = jax.jit(search_step(method, loss, optimizer, 1), donate_argnums=0)
    for number in range(2):
        for _ in range(2):
            state, _ = step(state, jnp.float32(1))
        ticket = own(found_ticket(method, state), state, arguments)
        own(rewind(ticket), ticket)
        own(fold_scale(ticket), ticket)
        renewed = own(next_search(method, state, optimizer), state, arguments)
        kept = own(next_search(method, state, optimizer, renew_optimizer=False), state)
        state = (renewed, kept)[number]
    turn = jax.jit(lambda state: next_search(method, state, optimizer), donate_argnums=0)
    state = own(turn(turn(state)))
    step(state, jnp.float32(1))
    # What belongs to somebody else is still there.
    assert np.isfinite(ticket.params["kernel"]).all()
    for mine, theirs in zip(jax.tree.leaves(params), jax.tree.leaves(START), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert float(hyper["fraction"]) == np.float32(0.2)
    np.testing.assert_array_equal(statistics, np.zeros(3))
    jax.random.split(key)


@pytest.mark.parametrize(("kind", "devices"), [("magnitude", 4), ("continuous", 1)])
def test_states_of_a_population(kind, devices):
    method, optimizer = METHODS[kind], OPTIMIZERS["schedule-free"]
    mesh = jax.make_mesh((devices,), ("members",), devices=jax.devices()[:devices])
    arguments = (
        stacked(START),
        jax.random.split(jax.random.key(3), MEMBERS),
        {"fraction": jnp.linspace(0.1, 0.4, MEMBERS)},
        jnp.zeros((MEMBERS, 3)),
    )
    first = own(init_population(method, arguments[0], optimizer, *arguments[1:]), arguments)
    dealt = own(shard_population(first, mesh), first)
    state = own(shard_population(dealt, mesh), dealt)  # where it lies already
    step = jax.jit(population_step(search_step(method, loss, optimizer, 1)), donate_argnums=0)
    turn = jax.jit(lambda state: next_population(method, state, optimizer), donate_argnums=0)
    find = jax.jit(lambda state: population_tickets(method, state))
    for _ in range(2):
        for _ in range(2):
            state, _ = step(state, jnp.float32(1))
        found = own(find(state), state)
        one = own(member(state, 1), state)
        step_of_one = jax.jit(search_step(method, loss, optimizer), donate_argnums=0)
        step_of_one(one, jnp.float32(1))
        state = own(turn(state), found)
    own(next_population(method, dealt, optimizer), dealt)
    for tree in (arguments[0], arguments[2:], first.params, dealt.params, found.params):
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree))
