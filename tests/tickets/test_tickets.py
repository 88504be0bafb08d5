import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from sparsejax import tickets
from sparsejax.tickets import (
    check_ticket,
    continuous_sparsification,
    effective_params,
    fold_scale,
    found_ticket,
    init_search,
    magnitude_pruning,
    next_search,
    num_nonzero,
    random_pruning,
    rewind,
    search_step,
    stochastic_l0,
)
from sparsejax.training import Batches, Checkpoints, fit

RNG = np.random.default_rng(0)
TRUTH = RNG.normal(size=(20, 5)) * (RNG.random((20, 5)) < 0.2)
DATA = {"x": RNG.normal(size=(256, 20)).astype(np.float32)}
DATA["y"] = (DATA["x"] @ TRUTH).astype(np.float32)
START = {
    "kernel": jnp.asarray(RNG.normal(size=(20, 5)) / 4, jnp.float32),
    "bias": jnp.zeros(5, jnp.float32),
}
KEY = jax.random.key(0)
STEPS = 96  # 12 epochs of 8


def loss(params, batch, key):
    del key
    error = batch["x"] @ params["kernel"] + params["bias"] - batch["y"]
    return (error**2).mean(), {}


def search(method, rounds, optimizer=None, rewind_step=16, hyper=None, steps=STEPS):
    """The states at the end of each round."""
    optimizer = optimizer or optax.adam(0.03)
    step = search_step(method, loss, optimizer, rewind_step)
    state, ends = init_search(method, START, optimizer, KEY, hyper), []
    for number in range(rounds):
        if number:
            state = next_search(method, state, optimizer)
        state = fit(step, state, Batches(DATA, 32, number), steps=steps)
        ends.append(state)
    return ends


def survivors(ticket):
    return np.asarray(ticket.mask["kernel"])


@pytest.mark.parametrize("rewind", [True, False])
def test_iterative_magnitude_pruning_takes_the_smallest_survivors(rewind):
    method = magnitude_pruning(0.3, rewind)
    ends = search(method, 4)
    left, before = 100, np.ones((20, 5), bool)
    for number, end in enumerate(ends):
        left -= int(np.ceil(np.float32(0.3) * np.float32(left)))
        ticket = found_ticket(method, end)
        mask = survivors(ticket)
        assert mask.sum() == int(num_nonzero(ticket.mask)) == left
        assert isinstance(ticket.mask["bias"], optax.MaskedNode)
        assert not (mask & ~before).any()
        weights = np.abs(end.params["weights"]["kernel"])
        assert weights[mask].min() >= weights[before & ~mask].max()
        before = mask
        # Every ticket rewinds to the weights of step 16 of the first round.
        jax.tree.map(
            np.testing.assert_array_equal,
            ticket.params, found_ticket(method, ends[0]).params,
        )  # fmt: skip
        assert int(end.search.round) == number
    going_on = next_search(method, ends[0], optax.adam(0.03)).params["weights"]["kernel"]
    source = ends[0].search.rewind_params if rewind else ends[0].params
    np.testing.assert_array_equal(going_on, source["weights"]["kernel"])
    # The true weights are among those it keeps while there is room for them.
    assert survivors(found_ticket(method, ends[1]))[TRUTH != 0].all()


def test_the_early_weights_are_those_of_their_step():
    optimizer, method = optax.adam(0.03), magnitude_pruning(0.5)
    whole = search(method, 1)[0]
    short = search(method, 1, steps=16)[0]
    jax.tree.map(np.testing.assert_array_equal, whole.search.rewind_params, short.params)
    from_start = search(method, 1, rewind_step=0)[0]
    np.testing.assert_array_equal(
        from_start.search.rewind_params["weights"]["kernel"], START["kernel"]
    )
    again = next_search(method, whole, optimizer)
    assert int(again.step) == 0
    np.testing.assert_array_equal(optax.tree.get(again.opt_state, "count"), 0)


def test_weights_outside_the_mask_do_not_count():
    """Whatever they are: the network's outputs and the gradients do not see them."""
    method = magnitude_pruning(0.5)
    end = search(method, 1)[0]
    state = next_search(method, end, optax.sgd(0.1))
    step = jax.jit(search_step(method, loss, optax.sgd(0.1)))
    moved = jax.tree.map(
        lambda w, m: w if isinstance(m, optax.MaskedNode) else jnp.where(m, w, 1e3),
        state.params["weights"], state.search.mask,
    )  # fmt: skip
    batch = {name: array[:32] for name, array in DATA.items()}
    one, _ = step(state, batch)
    other, _ = step(state._replace(params={"weights": moved}), batch)
    mask = np.asarray(state.search.mask["kernel"])
    np.testing.assert_array_equal(
        np.asarray(one.params["weights"]["kernel"])[mask],
        np.asarray(other.params["weights"]["kernel"])[mask],
    )
    assert (np.asarray(other.params["weights"]["kernel"])[~mask] == 1e3).all()


def test_random_pruning_is_a_lot_with_the_same_numbers():
    method = random_pruning(0.3)
    ends = search(method, 2)
    masks = [survivors(found_ticket(method, end)) for end in ends]
    assert [mask.sum() for mask in masks] == [69, 48]  # 0.3 is a little more in float32
    assert not (masks[1] & ~masks[0]).any()
    weights = np.abs(ends[0].params["weights"]["kernel"])
    assert weights[masks[0]].min() < weights[~masks[0]].max()
    again = found_ticket(method, ends[0])
    np.testing.assert_array_equal(again.mask["kernel"], masks[0])
    np.testing.assert_array_equal(
        next_search(method, ends[0], optax.adam(0.03)).search.mask["kernel"], masks[0]
    )


def test_continuous_sparsification_finds_the_true_support():
    method = continuous_sparsification(STEPS, initial=0.0, penalty=1e-4)
    ends = search(method, 3)
    before = np.ones((20, 5), bool)
    for end in ends:
        mask = survivors(found_ticket(method, end))
        np.testing.assert_array_equal(
            mask, before & (np.asarray(end.params["gates"]["kernel"]) > 0)
        )
        assert not (mask & ~before).any()
        before = mask
    assert not before[TRUTH == 0].any()
    assert before[np.abs(TRUTH) > 0.5].all()
    # With the last beta the soft network is the binary one.
    state = ends[-1]
    soft = method.effective_params(state.params, state.search.mask, jnp.asarray(STEPS), KEY)
    hard = effective_params(found_ticket(method, state), state.params["weights"])
    assert np.median(np.abs(soft["kernel"] - hard["kernel"])) < 1e-6
    np.testing.assert_allclose(soft["kernel"], hard["kernel"], atol=0.2)


def test_between_its_rounds_gates_restart_and_weights_rewind():
    method = continuous_sparsification(STEPS, initial=0.1, penalty=3e-3, final_beta=150.0)
    end = search(method, 1)[0]
    state = next_search(method, end, optax.adam(0.03))
    s = np.asarray(end.params["gates"]["kernel"])
    np.testing.assert_allclose(
        state.params["gates"]["kernel"], np.minimum(150 * s, np.float32(0.1)), rtol=1e-4
    )
    np.testing.assert_array_equal(
        state.params["weights"]["kernel"], end.search.rewind_params["weights"]["kernel"]
    )
    # Training started at the function of the whole network.
    view = method.effective_params(
        init_search(method, START, optax.sgd(0.1), KEY).params, None, 0, KEY
    )
    np.testing.assert_allclose(view["kernel"], START["kernel"], rtol=1e-5)


def test_stochastic_gates_close_under_their_penalty():
    method = stochastic_l0(1e-2)
    ends = search(method, 2, optax.adam(0.1))
    first, second = (survivors(found_ticket(method, end)) for end in ends)
    assert second.sum() <= first.sum() < 90
    assert not (second & ~first).any()


def test_a_ticket_trains_and_keeps_its_zeros():
    method = magnitude_pruning(0.7)
    ticket = found_ticket(method, search(method, 1)[0])
    check_ticket(ticket, START)
    params, effective = rewind(ticket)
    optimizer = optax.chain(optax.adam(0.05), sparsejax.hold_zeros(ticket.mask))
    opt_state = optimizer.init(params)

    @jax.jit
    def step(params, opt_state):
        updates, opt_state = optimizer.update(
            jax.grad(lambda p: loss(effective(p), DATA, None)[0])(params), opt_state, params
        )
        return optax.apply_updates(params, updates), opt_state

    for _ in range(200):
        params, opt_state = step(params, opt_state)
    assert (np.asarray(params["kernel"]) != 0).sum() == 30
    assert loss(effective(params), DATA, None)[0] < 1e-3


def test_a_killed_round_resumes_to_the_same_bits(tmp_path):
    method, optimizer = continuous_sparsification(STEPS, penalty=3e-3), optax.adam(0.03)
    step = search_step(method, loss, optimizer, 16)
    start = init_search(method, START, optimizer, KEY)
    batches, checkpoints = Batches(DATA, 32), Checkpoints(tmp_path, every=20)
    whole = fit(step, start, batches, steps=STEPS)
    fit(step, start, batches, steps=47, checkpoints=checkpoints)
    resumed = fit(step, start, batches, steps=STEPS, checkpoints=checkpoints)
    for a, b in zip(
        *(jax.tree.leaves(tree._replace(key=0)) for tree in (whole, resumed)), strict=True
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "method",
    [
        magnitude_pruning(0.5),
        random_pruning(0.5),
        continuous_sparsification(STEPS, -0.01, 1e-3),
        stochastic_l0(1e-2),
    ],
    ids=["magnitude", "random", "continuous", "stochastic"],
)
def test_weights_of_half_precision_stay_so(method):
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), START)
    optimizer = optax.adam(0.03)
    step = search_step(method, loss, optimizer, 8)
    state = init_search(method, half, optimizer, KEY)
    end = fit(step, state, Batches(DATA, 32), steps=16)
    ticket = found_ticket(method, end)
    params, effective = rewind(ticket)
    trees = (
        end.params["weights"],
        end.search.rewind_params["weights"],
        ticket.params,
        params,
        effective(params),
    )
    for tree in (*trees, fold_scale(ticket).params):
        assert {leaf.dtype for leaf in jax.tree.leaves(tree)} == {jnp.dtype(jnp.bfloat16)}
    assert ticket.mask["kernel"].dtype == bool
    assert ticket.scale.dtype == jnp.float32
    later = next_search(method, end, optimizer)
    same = jax.tree.map(lambda a, b: a.dtype == b.dtype, later.params, end.params)
    assert all(jax.tree.leaves(same))
    assert 0 <= int(num_nonzero(later.search.mask)) <= 100


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: magnitude_pruning(0.0), r"fraction must be in \(0, 1\); got 0"),
        (lambda: random_pruning(1.0), r"fraction must be in \(0, 1\); got 1"),
        (lambda: continuous_sparsification(0), "steps must be an integer >= 1; got 0"),
        (lambda: continuous_sparsification(5, np.nan), "initial must be a finite number; got nan"),
        (lambda: continuous_sparsification(5, penalty=-1.0), "penalty must be a number >= 0; got"),
        (
            lambda: continuous_sparsification(5, final_beta=0.1),
            "final_beta must be a finite number",
        ),
        (
            lambda: continuous_sparsification(5, penalty_on="gates"),
            "penalty_on must be 'mask' or 'scaled_mask'; got 'gates'",
        ),
        (
            lambda: continuous_sparsification(6, steps_per_stair=4),
            "steps_per_stair must be an integer >= 1 that divides the 6 steps into two or more",
        ),
        (lambda: continuous_sparsification(6, steps_per_stair=6), "stairs; got 6"),
        (
            lambda: continuous_sparsification(5, restart_beta=0.0),
            "restart_beta must be a finite number > 0; got 0.0",
        ),
        (lambda: tickets.fixed_mask(None, 0.0), "scale must be a positive finite number; got 0.0"),
        (lambda: stochastic_l0(1.0, drop_rate=1.5), r"drop_rate must be in \(0, 1\); got 1.5"),
        (
            lambda: search_step(magnitude_pruning(0.5), loss, optax.sgd(0.1), -1),
            "rewind_step must be an integer >= 0; got -1",
        ),
        (
            lambda: init_search(
                magnitude_pruning(0.5, where=lambda path, leaf: False), START, optax.sgd(1), KEY
            ),
            "where",
        ),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
