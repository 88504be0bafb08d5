"""Under every setting of JAX that users switch on, a search is the same search."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType

from sparsejax.tickets import (
    apply_mask,
    check_ticket,
    continuous_sparsification,
    effective_params,
    fixed_mask,
    fold_scale,
    found_ticket,
    init_population,
    init_search,
    jaccard,
    magnitude_pruning,
    member,
    next_population,
    next_search,
    num_nonzero,
    ones_mask,
    population_scan,
    population_step,
    population_tickets,
    rewind,
    search_step,
    shard_population,
    stochastic_l0,
)
from tests.tickets.test_tickets import DATA, START, loss

METHODS = {
    "magnitude": lambda h: magnitude_pruning(h["fraction"]),
    "continuous": lambda h: continuous_sparsification(
        4, h["fraction"] - 0.25, 1e-3, 20.0, penalty_on="scaled_mask", steps_per_stair=2
    ),
    "stochastic": lambda h: stochastic_l0(0.01 * h["fraction"]),
}
HYPER = {"fraction": np.float32([0.25, 0.3])}
SGD = optax.sgd(0.1, momentum=0.9)


def everything(method, key):
    """Two rounds of two members, their tickets trained, and each public function on the way."""
    keys = jax.random.split(key, 2)
    several = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf / 2]), START)
    state = init_population(method, several, SGD, keys, HYPER, jnp.zeros(2, jnp.float32))

    def counted(params, statistics, batch, key):
        value, metrics = loss(params, batch, key)
        return value, (metrics, statistics + jnp.float32(1))

    step = search_step(method, counted, SGD, 2)
    take, rows = population_step(step), jnp.arange(4)
    state, metrics = jax.lax.scan(lambda s, _: take(s, DATA), state, rows)
    state = next_population(method, state, SGD)
    state, _ = population_scan()(lambda s, data, row: step(s, data), state, DATA, rows)
    tickets = population_tickets(method, state)
    one = member(state, 1)
    ticket = found_ticket(method, one)
    next_search(method, one, SGD, renew_optimizer=False)
    params, effective = rewind(ticket)
    seen = effective(params)
    folded = fold_scale(ticket)
    training = fixed_mask(ticket.mask, ticket.scale)
    trained = init_search(training, ticket.params, SGD, keys[0])
    trained, _ = search_step(training, loss, SGD)(trained, DATA)
    return {
        "ticket": ticket,
        "mask": tickets.mask,
        "metrics": metrics,
        "params": state.params,
        "scale": tickets.scale,
        "seen": seen,
        "folded": effective_params(folded, folded.params),
        "trained": effective_params(ticket, trained.params["weights"]),
        "left": num_nonzero(ticket.mask),
        "overlap": jaccard(ticket.mask, ones_mask(START)),
        "masked": apply_mask(START, ticket.mask),
        "statistics": tickets.statistics,
    }


def run(kind, key=jax.random.key):
    # In one program, since it compiles faster than its pieces do.
    found = jax.jit(lambda key: everything(METHODS[kind], key))(key(7))
    check_ticket(found["ticket"], START)
    return jax.tree.map(np.asarray, found)


plain = functools.cache(run)


def explicit_mesh():
    return jax.set_mesh(jax.make_mesh((2,), ("other",), (AxisType.Explicit,)))


@pytest.mark.parametrize(
    ("setting", "kind"),
    [
        ("x64", "magnitude"), ("x64", "continuous"), ("x64", "stochastic"),
        ("narrow", "magnitude"), ("narrow", "continuous"),
        ("mesh", "magnitude"), ("mesh", "continuous"),
    ],
)  # fmt: skip
def test_everything_runs_and_is_the_same(setting, kind):
    wanted = plain(kind)
    with contextlib.ExitStack() as settings:
        if setting == "mesh":
            settings.enter_context(explicit_mesh())
        else:
            settings.enter_context(jax.enable_x64(setting == "x64"))
            settings.enter_context(jax.numpy_dtype_promotion("strict"))
            settings.enter_context(jax.debug_nans(True))
        found = run(kind, jax.random.PRNGKey if setting == "narrow" else jax.random.key)
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    if setting == "x64" and kind == "stochastic":  # other random numbers
        wanted, found = {"scale": wanted["scale"]}, {"scale": found["scale"]}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, wanted)
    for name in ("seen", "params", "folded", "trained"):
        if name in found:
            assert {leaf.dtype.name for leaf in jax.tree.leaves(found[name])} == {"float32"}


def test_an_explicit_mesh_deals_members_out():
    kind = AxisType.Explicit
    mesh = jax.make_mesh((2,), ("members",), (kind,), devices=jax.devices()[:2])
    method, keys = METHODS["continuous"], jax.random.split(jax.random.key(7), 4)
    several = jax.tree.map(lambda leaf: jnp.stack([leaf] * 4), START)
    hyper = {"fraction": jnp.float32([0.1, 0.2, 0.3, 0.4])}
    state = init_population(method, several, SGD, keys, hyper)
    step = search_step(method, loss, SGD, 1)
    rows = jnp.arange(4)
    take = lambda s, data, row: step(s, data)  # noqa: E731
    single, _ = jax.jit(lambda s: population_scan()(take, s, DATA, rows))(state)
    dealt = shard_population(state, mesh)
    turned = jax.jit(lambda s: next_population(method, s, SGD))
    found = jax.jit(lambda s: population_tickets(method, s))
    for run in (
        jax.jit(lambda s: population_scan(mesh)(take, s, DATA, rows)),
        jax.jit(lambda s: jax.lax.scan(lambda s, _: population_step(step)(s, DATA), s, rows)),
    ):
        ended, _ = run(dealt)
        for ours, theirs in (
            (ended.params, single.params),
            (turned(ended).params, turned(single).params),
            (found(ended).scale, found(single).scale),
        ):
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), ours, theirs
            )
        assert len(ended.params["weights"]["kernel"].sharding.device_set) == 2
    with pytest.raises(ValueError, match="mesh must divide 4 members; it has 3 devices"):
        shard_population(
            state, jax.make_mesh((3,), ("members",), (kind,), devices=jax.devices()[:3])
        )
