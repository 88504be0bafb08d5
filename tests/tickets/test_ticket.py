"""A ticket's scale stays outside of its weights, and means the same in every loop."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import sparsejax
from sparsejax.tickets import (
    Ticket,
    check_ticket,
    continuous_sparsification,
    effective_params,
    fixed_mask,
    fold_scale,
    found_ticket,
    init_population,
    init_search,
    magnitude_pruning,
    ones_mask,
    population_tickets,
    rewind,
    search_step,
    stochastic_l0,
)
from sparsejax.training import init_state
from tests.tickets.test_tickets import DATA, KEY, START, loss

STARTS = np.float32([-0.2, 0.1])
SCALES = 1 + np.exp(-STARTS.astype(np.float64))
"""1 / sigma(s_0)."""
MASK = {
    "kernel": np.random.default_rng(2).random((20, 5)) < 0.4,
    "bias": optax.MaskedNode(),
}


def make(initial):
    return continuous_sparsification(10, initial)


def test_a_ticket_says_its_scale_and_has_the_plain_weights():
    for start, scale in zip(STARTS, SCALES, strict=True):
        method = make(start)
        ticket = found_ticket(method, init_search(method, START, optax.sgd(0.1), KEY))
        assert float(ticket.scale) == pytest.approx(scale)
        assert ticket.scale.shape == ()
        jax.tree.map(np.testing.assert_array_equal, ticket.params, START)
    for method in (magnitude_pruning(0.5), stochastic_l0(1e-3)):
        ticket = found_ticket(method, init_search(method, START, optax.sgd(0.1), KEY))
        assert float(ticket.scale) == 1


@pytest.mark.parametrize("shape", [(1, 4), (4, 1), (1, 1), (2, 4), (3, 1, 4)])
def test_what_is_not_searched_has_no_scale_whatever_the_shapes(shape):
    """A bias beside a kernel of one input has as many entries as the kernel."""
    params = {"kernel": jnp.ones(shape), "bias": jnp.arange(1.0, 1 + shape[-1])}
    method = continuous_sparsification(10, initial=-0.1)
    state = init_search(method, params, optax.sgd(0.1), KEY)
    seen = method.effective_params(state.params, state.search.mask, jnp.asarray(0), KEY)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), seen, params)
    ticket = Ticket(ones_mask(params), params, found_ticket(method, state).scale)
    for found in (effective_params(ticket, params), fold_scale(ticket).params):
        np.testing.assert_array_equal(found["bias"], params["bias"])
        np.testing.assert_allclose(found["kernel"], np.full(shape, 1 + np.exp(0.1)), rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_the_network_sees_scale_times_mask_times_weights(dtype):
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), START)
    ticket = Ticket(MASK, params, 2.1)
    wanted = np.where(MASK["kernel"], 2.1 * np.asarray(params["kernel"], np.float64), 0)
    close = {"rtol": 1e-6 if dtype == np.float32 else 2**-8}
    trained, effective = rewind(ticket)
    folded = fold_scale(ticket)
    whole, view = jax.jit(rewind)(folded)
    for seen in (
        effective_params(ticket, params),
        jax.jit(effective_params)(ticket, params),
        effective(trained),
        effective_params(folded, folded.params),
        view(whole),
    ):
        assert seen["kernel"].dtype == seen["bias"].dtype == jnp.dtype(dtype)
        np.testing.assert_allclose(np.asarray(seen["kernel"], np.float64), wanted, **close)
        np.testing.assert_array_equal(seen["bias"], params["bias"])
    assert float(folded.scale) == 1
    np.testing.assert_array_equal(trained["kernel"], np.where(MASK["kernel"], params["kernel"], 0))


def test_weights_without_their_scale_are_no_network():
    """`rewind` gives two things, so that forgetting one of them fails at once."""
    ticket = Ticket(MASK, START, 2.1)
    with pytest.raises((TypeError, KeyError)):
        loss(rewind(ticket), DATA, None)


def steps_of(scale, kernel, mask, count, rate=0.05, decay=1e-2):
    """SGD with weight decay on w, in float64; the network computes with scale * mask * w."""
    x, y = (DATA[name].astype(np.float64) for name in ("x", "y"))
    w, b = kernel.astype(np.float64), np.zeros(5)
    for _ in range(count):
        error = x @ (scale * mask * w) + b - y
        w = w - rate * (scale * mask * (x.T @ error) * 2 / error.size + decay * w)
        b = b - rate * (error.sum(axis=0) * 2 / error.size + decay * b)
    return w, b


def test_a_ticket_trains_alike_in_every_loop():
    kernel = np.asarray(START["kernel"])
    ticket = Ticket(MASK, START, jnp.float32(SCALES[0]))
    wanted, bias = steps_of(SCALES[0], kernel, MASK["kernel"], 20)
    sgd = optax.chain(optax.add_decayed_weights(1e-2), optax.sgd(0.05))

    params, effective = rewind(ticket)
    optimizer = optax.chain(sgd, sparsejax.hold_zeros(ticket.mask))
    opt_state = optimizer.init(params)

    @jax.jit
    def own(params, opt_state):
        grads = jax.grad(lambda p: loss(effective(p), DATA, None)[0])(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    method = fixed_mask(ticket.mask, ticket.scale)
    state = init_search(method, ticket.params, sgd, KEY)
    step = jax.jit(search_step(method, loss, sgd))
    for _ in range(20):
        params, opt_state = own(params, opt_state)
        state, _ = step(state, DATA)
    for found in (params, state.params["weights"]):
        seen = effective_params(ticket, found)
        np.testing.assert_allclose(
            seen["kernel"], SCALES[0] * MASK["kernel"] * wanted, rtol=2e-4, atol=1e-6
        )
        np.testing.assert_allclose(seen["bias"], bias, rtol=2e-4, atol=1e-6)
    assert (np.asarray(params["kernel"]) != 0).sum() == MASK["kernel"].sum()
    # Folded, the same function moves at another pace.
    folded, _ = steps_of(1.0, SCALES[0] * kernel, MASK["kernel"], 20)
    assert np.abs(folded - SCALES[0] * wanted)[MASK["kernel"]].max() > 0.1
    # Such a "search" goes on with what it has.
    again = found_ticket(method, state)
    np.testing.assert_array_equal(again.mask["kernel"], MASK["kernel"])
    assert float(again.scale) == float(ticket.scale)
    np.testing.assert_array_equal(again.params["kernel"], kernel)


def test_members_have_scales_of_their_own():
    params = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), START)
    keys = jax.random.split(KEY, 2)
    state = init_population(make, params, optax.sgd(0.1), keys, jnp.asarray(STARTS))
    tickets = jax.jit(lambda state: population_tickets(make, state))(state)
    np.testing.assert_allclose(tickets.scale, SCALES, rtol=1e-6)
    tickets = tickets._replace(mask=jax.tree.map(jnp.ones_like, tickets.mask))
    trained, effective = jax.vmap(rewind)(tickets)
    seen = jax.vmap(lambda view, weights: view(weights))(effective, trained)
    folded = jax.vmap(fold_scale)(tickets)
    wanted = SCALES[:, None, None] * np.asarray(params["kernel"], np.float64)
    for found in (seen, folded.params, jax.vmap(effective_params)(tickets, params)):
        np.testing.assert_allclose(found["kernel"], wanted, rtol=1e-6)
        np.testing.assert_array_equal(found["bias"], params["bias"])
    np.testing.assert_array_equal(folded.scale, [1, 1])
    for place in range(2):
        check_ticket(jax.tree.map(lambda leaf, at=place: leaf[at], tickets), START)


def test_a_ticket_of_wrapped_arrays():
    params = nnx.state(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), nnx.Param)
    method = continuous_sparsification(10, -0.1)
    ticket = found_ticket(method, init_search(method, params, optax.sgd(0.1), KEY))
    check_ticket(ticket._replace(mask=ones_mask(params)), params)
    seen = effective_params(ticket._replace(mask=ones_mask(params)), params)
    assert jax.tree.structure(seen) == jax.tree.structure(params)
    np.testing.assert_allclose(
        seen["kernel"][...], (1 + np.exp(0.1)) * params["kernel"][...], rtol=1e-6
    )


def test_tickets_that_do_not_fit_are_named():
    mask = ones_mask(START)
    with pytest.raises(ValueError, match="ticket.mask must have the structure of params"):
        check_ticket(Ticket({"kernel": mask["kernel"]}, START), START)
    wrong = START | {"bias": jnp.zeros(4)}
    with pytest.raises(ValueError, match=r"ticket.params .* \['bias'\] has shape \(4,\)"):
        check_ticket(Ticket(mask, wrong), START)
    for scale in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match=f"ticket.scale must be a pos.* scalar; got {scale}"):
            check_ticket(Ticket(mask, START, scale), START)
    with pytest.raises(ValueError, match=r"scalar; got an array of shape \(2,\)"):
        check_ticket(Ticket(mask, START, jnp.ones(2)), START)
    empty = mask | {"kernel": jnp.zeros((20, 5), bool)}
    with pytest.warns(RuntimeWarning, match=r"empties \['kernel'\]"):
        check_ticket(Ticket(empty, START), START)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_ticket(Ticket(mask, START), START)
        check_ticket(Ticket(mask, START, 2.1), START)


def test_what_is_no_ticket_or_search_is_named():
    params, optimizer, key = {"kernel": jnp.ones((2, 2))}, optax.sgd(0.1), jax.random.key(0)
    method = magnitude_pruning(0.5)
    for function in (rewind, fold_scale):
        with pytest.raises(TypeError, match="ticket must be a Ticket.*; got dict"):
            function(params)
    for function in (found_ticket, population_tickets):
        with pytest.raises(TypeError, match="state must be the state of a search.* without one"):
            function(method, init_state(params, optimizer, key))
    with pytest.raises(TypeError, match="method must be a Method, or a function .*; got dict"):
        init_search(params, method, optimizer, key)
