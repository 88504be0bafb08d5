"""What a step hands to its optimizer, and what is kept between rounds."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sparsejax.tickets import (
    continuous_sparsification,
    found_ticket,
    init_population,
    init_search,
    magnitude_pruning,
    next_search,
    population_scan,
    population_step,
    search_step,
)
from tests.tickets.test_tickets import DATA, KEY, START, loss

METHOD = continuous_sparsification(8, initial=0.1, penalty=1e-3, final_beta=20.0)
PLATEAU = optax.chain(
    optax.sgd(0.3, momentum=0.9),
    optax.contrib.reduce_on_plateau(factor=0.5, patience=1, rtol=0.3),
)
LINE_SEARCH = optax.chain(
    optax.sgd(1.0), optax.scale_by_backtracking_linesearch(max_backtracking_steps=12)
)
COUNT = 6


def by_hand(method, optimizer, params=START):
    """The same steps as optax writes them, on the loss with the penalty."""
    state = init_search(method, params, optimizer, KEY)
    trained, opt_state, values = state.params, state.opt_state, []

    def objective(trained, step):
        value, _ = loss(method.effective_params(trained, state.search.mask, step, KEY), DATA, None)
        return value + method.penalty(trained, step)

    @jax.jit
    def step(trained, opt_state, number):
        value_fn = lambda trained: objective(trained, number)  # noqa: E731
        value, grad = jax.value_and_grad(value_fn)(trained)
        updates, opt_state = optimizer.update(
            grad, opt_state, trained, value=value, grad=grad, value_fn=value_fn
        )
        return optax.apply_updates(trained, updates), opt_state, value

    for number in range(COUNT):
        trained, opt_state, value = step(trained, opt_state, jnp.int32(number))
        values.append(float(value))
    return trained, values


@pytest.mark.parametrize("optimizer", [PLATEAU, LINE_SEARCH], ids=["plateau", "line"])
def test_an_optimizer_gets_the_value_of_what_is_minimised(optimizer):
    step = search_step(METHOD, loss, optimizer)
    wanted, values = by_hand(METHOD, optimizer)
    start = init_search(METHOD, START, optimizer, KEY)

    state, jitted = start, jax.jit(step)
    for _ in range(COUNT):
        state, _ = jitted(state, DATA)
    scanned, _ = jax.jit(
        lambda state: jax.lax.scan(lambda s, _: step(s, DATA), state, None, length=COUNT)
    )(start)
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf / 2]), START)
    keys = jnp.stack([KEY, KEY])
    population = init_population(METHOD, stacked, optimizer, keys)
    take = jax.jit(population_step(step))
    for _ in range(COUNT):
        population, _ = take(population, DATA)
    first = jax.tree.map(lambda leaf: leaf[0], population.params)
    for found in (state.params, scanned.params, first):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4), found, wanted
        )
    assert values[-1] < values[0]
    if optimizer is PLATEAU:  # it has looked at the values
        assert float(optax.tree.get(state.opt_state, "scale")) < 1


def test_a_block_of_a_family_passes_them_on():
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf] * 2), START)
    state = init_population(METHOD, stacked, PLATEAU, jnp.stack([KEY, KEY]))
    step = search_step(METHOD, loss, PLATEAU)
    take = lambda state, arrays, row: step(state, arrays)  # noqa: E731
    block = jax.jit(lambda state: population_scan()(take, state, DATA, jnp.arange(COUNT)))
    ended, _ = block(state)
    wanted, _ = by_hand(METHOD, PLATEAU)
    np.testing.assert_allclose(
        ended.params["weights"]["kernel"][1], wanted["weights"]["kernel"], rtol=2e-3, atol=2e-4
    )


def test_an_optimizer_may_go_on_between_rounds():
    method, optimizer = magnitude_pruning(0.5), optax.adam(0.1)
    step = jax.jit(search_step(method, loss, optimizer))
    state = init_search(method, START, optimizer, KEY)
    for _ in range(3):
        state, _ = step(state, DATA)
    kept = next_search(method, state, optimizer, renew_optimizer=False)
    jax.tree.map(np.testing.assert_array_equal, kept.opt_state, state.opt_state)
    renewed = next_search(method, state, optimizer)
    assert int(optax.tree.get(renewed.opt_state, "count")) == 0
    assert int(kept.step) == int(renewed.step) == 0
    jax.tree.map(np.testing.assert_array_equal, kept.params, renewed.params)


@pytest.mark.parametrize("rewind_step", [0, 2])
def test_a_ticket_has_the_statistics_of_the_step_it_rewinds_to(rewind_step):
    def counted(params, statistics, batch, key):
        value, metrics = loss(params, batch, key)
        return value, (metrics, {"seen": statistics["seen"] + 1})

    method, optimizer = magnitude_pruning(0.5), optax.sgd(0.01)
    step = jax.jit(search_step(method, counted, optimizer, rewind_step))
    state = init_search(method, START, optimizer, KEY, statistics={"seen": jnp.zeros(())})
    for _ in range(2):
        for _ in range(3):
            state, _ = step(state, DATA)
        ticket = found_ticket(method, state)
        assert float(ticket.statistics["seen"]) == rewind_step
        state = next_search(method, state, optimizer)
    assert float(state.statistics["seen"]) == 6  # a search goes on with its own
    plain = init_search(method, START, optimizer, KEY)
    assert found_ticket(method, plain).statistics is None
