"""Continuous sparsification as in the paper and as in its code, against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sparsejax.tickets import (
    continuous_sparsification,
    found_ticket,
    init_search,
    next_search,
    search_step,
)
from tests.tickets.test_tickets import DATA, KEY, START, loss

STEPS, EPOCH, ROUNDS, REWIND = 24, 6, 3, 4
BETA, START_AT, PENALTY = 8.0, -0.1, 0.02
RATE, MOMENTUM = 0.2, 0.8
DROP = 18  # the step of a round from which on the rate is a tenth

OURS = {
    "scaled": False, "rewind": True, "renew": True, "stairs": False, "restart": None,
}  # fmt: skip
PUBLISHED = {"scaled": True, "rewind": False, "renew": False, "stairs": True, "restart": 1.0}


def sigma(x):
    return 1 / (1 + np.exp(-x))


def written_out(scaled, rewind, renew, stairs, restart):
    """Weights, gates and mask after each round, by hand."""
    x, y = (DATA[name].astype(np.float64) for name in ("x", "y"))
    w, b = (np.asarray(START[name], np.float64) for name in ("kernel", "bias"))
    s, open_ = np.full(w.shape, START_AT), np.ones(w.shape, bool)
    speed, early, ends = [0.0, 0.0, 0.0], None, []
    scale = 1 / sigma(START_AT)
    for number in range(ROUNDS):
        for step in range(STEPS):
            if number == 0 and step == REWIND:
                early = w, b
            share = (step // EPOCH) / (STEPS // EPOCH - 1) if stairs else step / STEPS
            beta = BETA**share
            m = sigma(beta * s)
            error = x @ (scale * m * w) + b - y
            wide = x.T @ error * 2 / error.size  # by the effective weights
            slope = beta * m * (1 - m)
            penalised = PENALTY * (scale if scaled else 1)
            grads = (
                scale * m * wide,
                error.sum(axis=0) * 2 / error.size,
                (scale * w * wide + penalised) * slope,
            )
            rate = RATE * (0.1 if step >= DROP else 1)
            speed = [MOMENTUM * v + g for v, g in zip(speed, grads, strict=True)]
            w, b, s = (p - rate * v for p, v in zip((w, b, s), speed, strict=True))
        open_ = s > 0 if restart else open_ & (s > 0)
        ends.append((w, b, s, open_))
        s = np.minimum((restart or BETA) * s, START_AT)
        if rewind:
            w, b = early
        if renew:
            speed = [0.0, 0.0, 0.0]
    return ends, early


def searched(scaled, rewind, renew, stairs, restart):
    """The same by the library."""
    method = continuous_sparsification(
        STEPS, START_AT, PENALTY, BETA, rewind,
        penalty_on="scaled_mask" if scaled else "mask",
        steps_per_stair=EPOCH if stairs else None,
        restart_beta=restart,
    )  # fmt: skip

    def rate(count):
        return jnp.where(count % STEPS >= DROP, RATE / 10, RATE)

    optimizer = optax.sgd(rate, momentum=MOMENTUM)
    step = search_step(method, loss, optimizer, REWIND)
    state, ends = init_search(method, START, optimizer, KEY), []
    run = jax.jit(lambda s: jax.lax.scan(lambda s, _: step(s, DATA), s, None, length=STEPS)[0])
    for number in range(ROUNDS):
        if number:
            state = next_search(method, state, optimizer, renew)
        state = run(state)
        ends.append((state, found_ticket(method, state)))
    return ends


ONE_EACH = [OURS, *(OURS | {name: PUBLISHED[name]} for name in OURS), PUBLISHED]


@pytest.mark.parametrize("options", ONE_EACH, ids=["ours", *OURS, "published"])
def test_every_option_is_what_is_written_out(options):
    wanted, early = written_out(**options)
    for (state, ticket), (w, b, s, left) in zip(searched(**options), wanted, strict=True):
        close = {"rtol": 5e-3, "atol": 5e-4}
        np.testing.assert_allclose(state.params["weights"]["kernel"], w, **close)
        np.testing.assert_allclose(state.params["weights"]["bias"], b, **close)
        np.testing.assert_allclose(state.params["gates"]["kernel"], s, **close)
        clear = np.abs(s) > 5e-4
        np.testing.assert_array_equal(np.asarray(ticket.mask["kernel"])[clear], left[clear])
        # The ticket alone is rewound, whatever the search does.
        np.testing.assert_allclose(ticket.params["kernel"], early[0], **close)
        np.testing.assert_allclose(ticket.params["bias"], early[1], **close)
        assert float(ticket.scale) == pytest.approx(1 / sigma(START_AT))


def test_each_option_makes_a_difference():
    """So the test above tells them apart."""
    gates = [written_out(**options)[0][-1][2] for options in ONE_EACH]
    for place, one in enumerate(gates):
        for other in gates[place + 1 :]:
            assert np.abs(one - other).max() > 5e-3


def test_reopened_gates_are_in_the_ticket_where_beta_restarts():
    closed = np.zeros((20, 5), bool)
    for restart, reopened in ((None, False), (1.0, True)):
        method = continuous_sparsification(STEPS, START_AT, restart_beta=restart)
        state = init_search(method, START, optax.sgd(0.1), KEY)
        gates = jax.tree.map(lambda s: jnp.full_like(s, 0.1), state.params["gates"])
        state = state._replace(
            search=state.search._replace(mask={**state.search.mask, "kernel": jnp.asarray(closed)}),
            params=state.params | {"gates": gates},
        )
        assert bool(found_ticket(method, state).mask["kernel"].all()) is reopened
