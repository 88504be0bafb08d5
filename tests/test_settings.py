"""The whole public surface under each setting of JAX that users switch on.

Pure functions are traced, which is where promotion rules, dtypes, keys and the shardings in types
matter; for NaN checks, and where something works on the host, they are run.
"""

import contextlib
import inspect
import itertools
import typing

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import sparsejax
from sparsejax import (
    compression,
    constraints,
    deploy,
    gates,
    inspection,
    oneshot,
    projections,
    tickets,
    training,
    transforms,
)
from sparsejax.training import fit, fsdp_specs, init_state, make_step

ROOMS = (
    sparsejax, compression, constraints, deploy, gates, inspection, oneshot, projections, tickets,
    training, transforms,
)  # fmt: skip


SGD = optax.sgd(0.1, momentum=0.9)  # unlike Adam, it takes strict promotion


class Env:
    """What each call starts from: parameters, examples and keys of the setting's kinds."""

    def __init__(self, params, x, key, folder=None):
        self.params, self.x, self.folder = params, x, folder
        self.keys = (jax.random.fold_in(key, n) for n in itertools.count())

    def key(self):
        return next(self.keys)

    def grads(self):
        return jax.tree.map(lambda w: w * 2, self.params)

    def data(self):
        return {"x": np.asarray(self.x)}

    def masks(self):
        return projections.top_k_mask(self.params, 12)


def forward(params, x):
    return jax.nn.relu(x @ params["kernel"] + params["bias"])


def loss(params, batch, key):
    del key
    value = (forward(params, batch["x"]).astype(jnp.float32) ** 2).mean()
    return value, {"error": value}


def updated(optimizer, env, **extra):
    """Two updates, and the last state: the dtypes of a state are those that it starts with."""
    optimizer = optax.with_extra_args_support(optimizer)

    def update(carry, _):
        params, state = carry
        updates, state = optimizer.update(env.grads(), state, params, **extra)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(update, (env.params, optimizer.init(env.params)), length=2)[0]


def lc(env, step):
    transform = sparsejax.learning_compression(step, lambda n: 0.1, 1)
    params, state = updated(optax.chain(transform, SGD), env)
    return sparsejax.compressed_params(state, params), state


def pruned(env, function):
    """A pruning state around an optimizer that decays and holds."""
    pruner = transforms.prune_when_accurate(0.2, 0.1)
    optimizer = optax.chain(
        transforms.gated_weight_decay(0.1), SGD, transforms.hold_zeros(env.masks())
    )
    start = init_state(env.params, optimizer, env.key())
    return function(start._replace(pruning=pruner.init(env.params)), pruner, optimizer)


def constrained(env):
    """A constrained step on gated weights: all of `gates` and `constraints` that it takes."""
    hard = gates.hard_concrete(grouping=gates.per_output)
    gated = {"weights": hard.rescale(env.params), "gates": hard.init(env.key(), env.params)}
    dual = optax.chain(constraints.anneal_bound(0.1), constraints.nupi(0.1, 1.0))
    optimizer = constraints.descent_ascent(SGD, dual, scalar(0))

    def gated_loss(gated, batch, key):
        return loss(gates.apply(gated["weights"], hard.sample(gated["gates"], key)), batch, key)

    def excess(gated, batch, key):
        active = gates.broadcast_gates(gated["weights"], hard.active_probability(gated["gates"]))
        groups = constraints.gate_groups(gated["weights"], active)
        return constraints.density_violation(groups, 0.3)

    state = init_state(gated, optimizer, env.key())
    state, metrics = constraints.constrained_step(gated_loss, excess, optimizer)(
        state, {"x": env.x}
    )
    return state, metrics, constraints.current_multipliers(state.opt_state)


def pruned_at_once(env):
    """Each method of `oneshot`, on the Gram matrix of the examples."""
    x = env.x.astype(jnp.float64 if env.x.dtype == jnp.float64 else jnp.float32)
    inputs = oneshot.KernelInputs((x.T @ x)[None], jnp.full(1, len(x), x.dtype))
    layout = oneshot.KernelLayout((8, 8), (), (1,), (0,))
    calibration = oneshot.Calibration({"kernel": inputs}, {"kernel": layout})
    calls = {  # each method and each pattern
        "layer": (oneshot.magnitude(), oneshot.swaps()),
        "2:4": (oneshot.swaps(oneshot.admm(), refit_iterations=2),),
        "4x1": (oneshot.sparsegpt(),),
        "global": (oneshot.wanda(),),
    }
    for pattern, methods in calls.items():
        for method in methods:
            found = oneshot.prune(env.params, calibration, 0.5, method, pattern)
            assert (found["kernel"] != 0).sum() <= 32
    squares = jax.tree.map(jnp.square, env.params)
    options = {"comparison": "loss", "squared_gradients": squares}
    found = oneshot.prune(env.params, calibration, 0.5, "wanda", "global", **options)
    assert (found["kernel"] != 0).sum() == 32
    oneshot.layer_errors(env.params, found, calibration)


RMS = optax.chain(optax.scale_by_rms(), optax.scale(-0.1))


def sparsified(env, method, optimizer=SGD, **options):
    """A run of a method with masks, from its first mask on."""
    optimizer = transforms.sparsify(optimizer, method, **options)
    params, state = updated(optimizer, env)
    return params, state, transforms.masked_params(state, params)


def through(env):
    forward = transforms.straight_through(lambda params: transforms.project_sparsity(params, 0.5))
    decay = transforms.straight_through_decay(forward, 0.1)
    return jax.grad(lambda p: loss(forward(p), {"x": env.x}, None)[0])(env.params), updated(
        optax.chain(decay, SGD), env
    )


def indexed_ascent(env):
    dual = constraints.indexed(constraints.nupi(0.1, 1.0))
    multipliers = jnp.zeros(4, jnp.float32)
    seen = constraints.Indexed(jnp.asarray([2, 1], jnp.int32), jnp.ones(2, jnp.float32))
    return dual.update(seen, dual.init(multipliers), multipliers)


def implicit_ascent(env):
    dual = constraints.implicit_multipliers(optax.sgd(0.1))
    phi = jnp.zeros(4, jnp.float32)
    seen = constraints.Implicit(jnp.multiply, jnp.ones(4, jnp.float32), jnp.ones(4, jnp.float32))
    return dual.update(seen, dual.init(phi), phi), seen.multipliers(phi)


def gate_kinds(env):
    found = []
    for kind in (gates.hard_concrete, gates.sigmoid):
        for grouping in (gates.per_weight, gates.per_input, gates.per_output):
            one = kind(grouping=grouping)
            phi = one.init(env.key(), env.params)
            z = one.sample(phi, env.key())
            found += [phi, z, one.median(phi), one.active_probability(phi), one.binarize(phi)]
            found += [one.rescale(env.params), gates.apply(env.params, z)]
            found += [gates.broadcast_gates(env.params, z)]
    return found


def combined(env):
    both = gates.combine(gates.hard_concrete(), gates.sigmoid(where=named("bias")))
    phi = both.init(env.key(), env.params)
    return both.sample(phi, env.key()), both.median(phi)


def named(name):
    return lambda path, leaf: name in jax.tree_util.keystr(path)


METHODS = {
    "continuous_sparsification": lambda h: tickets.continuous_sparsification(4, h, 1e-3),
    "stochastic_l0": lambda h: tickets.stochastic_l0(0.01),
    "magnitude_pruning": lambda h: tickets.magnitude_pruning(0.2),
    "random_pruning": lambda h: tickets.random_pruning(0.2),
}


def search(env, method):
    """Two rounds of one search, and what is done with its ticket."""
    sgd = optax.sgd(0.1, momentum=0.9)
    hyper = jnp.asarray(0.1, jnp.float32)
    state = tickets.init_search(method, env.params, sgd, env.key(), hyper)
    step = tickets.search_step(method, loss, sgd, 1)
    state, metrics = step(state, {"x": env.x})
    ticket = tickets.found_ticket(method, state)
    state = tickets.next_search(method, state, sgd)
    mask = tickets.ones_mask(env.params)
    counts = tickets.num_nonzero(ticket.mask), tickets.jaccard(ticket.mask, mask)
    params, _ = tickets.rewind(ticket)
    seen = tickets.effective_params(ticket, params)
    fixed = tickets.fixed_mask(ticket.mask, ticket.scale)
    again = tickets.init_search(fixed, ticket.params, sgd, env.key())
    again, _ = tickets.search_step(fixed, loss, sgd)(again, {"x": env.x})
    masked = tickets.apply_mask(env.params, ticket.mask)
    return metrics, state, counts, seen, again, masked, tickets.fold_scale(ticket)


def population(env):
    method, sgd = METHODS["continuous_sparsification"], optax.sgd(0.1)
    several = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), env.params)
    keys = jnp.stack([env.key(), env.key()])
    hyper = jnp.asarray([0.1, 0.2], jnp.float32)
    state = tickets.init_population(method, several, sgd, keys, hyper)
    step = tickets.search_step(method, loss, sgd)
    state, metrics = tickets.population_step(step)(state, {"x": env.x})
    rows = jnp.arange(2, dtype=jnp.int32)
    scan = tickets.population_scan()
    state, _ = scan(lambda s, data, row: step(s, data), state, {"x": env.x}, rows)
    found = tickets.population_tickets(method, state)
    return metrics, tickets.member(tickets.next_population(method, state, sgd), 1), found


def scalar(value):
    return jnp.asarray(value, jnp.float32)


TRACED = {
    "project_l0_ball": lambda e: projections.project_l0_ball(e.params, 7),
    "project_l1_ball": lambda e: projections.project_l1_ball(e.params, 0.5),
    "hard_threshold": lambda e: projections.hard_threshold(e.params, 0.1),
    "soft_threshold": lambda e: projections.soft_threshold(e.params, 0.1),
    "project_n_m": lambda e: projections.project_n_m(e.params, 2, 4),
    "project_units": lambda e: projections.project_units(e.params, 3),
    "project_blocks": lambda e: projections.project_blocks(e.params, 3, (2, 2)),
    "project_k_means": lambda e: projections.project_k_means(e.params, 3),
    "project_codebook": lambda e: projections.project_codebook(e.params, [-1.0, 0.0, 0.5]),
    "project_binary": lambda e: projections.project_binary(e.params, scaled=True),
    "project_ternary": lambda e: projections.project_ternary(e.params, scaled=True),
    "project_low_rank": lambda e: projections.project_low_rank(e.params, 2),
    "low_rank_factors": lambda e: projections.low_rank_factors(e.params["kernel"], 2),
    "decode": lambda e: compression.decode(
        [
            compression.QuantizedArray(e.params["bias"], (e.params["kernel"] > 0).astype("uint8")),
            compression.LowRankArray(e.params["kernel"], e.params["kernel"], (8, 8)),
            compression.SumArray((e.params["kernel"], e.params["kernel"])),
            compression.RoundedArray(e.params["kernel"].astype("float16"), e.params["bias"].dtype),
        ]
    ),
    "top_k_mask": lambda e: projections.top_k_mask(e.params, 7),
    "l0_ball": lambda e: lc(e, compression.l0_ball(7)),
    "l0_ball_l2": lambda e: lc(e, compression.l0_ball_l2(7, 0.1)),
    "l1_ball": lambda e: lc(e, compression.l1_ball(0.5)),
    "l0_penalty": lambda e: lc(e, compression.l0_penalty(0.1)),
    "l1_penalty": lambda e: lc(e, compression.l1_penalty(0.1)),
    "n_m": lambda e: lc(e, compression.n_m(2, 4)),
    "units": lambda e: lc(e, compression.units(3)),
    "blocks": lambda e: lc(e, compression.blocks(3, (2, 2))),
    "quantize": lambda e: lc(e, compression.quantize(3, per_leaf=True, exact=False)),
    "quantize group_size": lambda e: lc(
        e, compression.quantize([-1.0, 1.0], group_size=2, axis=-1)
    ),
    "binary": lambda e: lc(e, compression.binary(scaled=True)),
    "ternary": lambda e: lc(e, compression.ternary(scaled=True)),
    "low_rank": lambda e: lc(e, compression.low_rank(2)),
    "rank_selection": lambda e: lc(e, compression.rank_selection(0.1)),
    "additive": lambda e: lc(
        e, compression.additive([compression.quantize(2), compression.l0_ball(3)], sweeps=2)
    ),
    "partition": lambda e: lc(
        e,
        compression.partition({"all": compression.l0_ball(7, values=2)}, lambda path, leaf: "all"),
    ),
    "gated_weight_decay": lambda e: updated(transforms.gated_weight_decay(0.1), e),
    "exact_gated_decay": lambda e: transforms.exact_gated_decay(
        jax.grad(lambda p: loss(p, {"x": e.x}, None)[0]), e.params, 0.1
    ),
    "inverse_sensitivity": lambda e: transforms.inverse_sensitivity(e.x),
    "reset_decay_schedule": lambda e: transforms.reset_decay_schedule(
        updated(transforms.gated_weight_decay(0.1), e)[1]
    ),
    "magnitude_pruning sparsify uniform all_together erdos_renyi polynomial": lambda e: [
        sparsified(e, transforms.magnitude_pruning(0.5, transforms.polynomial(0, 1), distribution))
        for distribution in (
            transforms.uniform(),
            transforms.erdos_renyi(),
            transforms.all_together("l2", [(lambda path, leaf: leaf.ndim == 2, 0.25)]),
        )
    ],
    "global_magnitude": lambda e: sparsified(e, transforms.global_magnitude(0.5, normalise="rms")),
    "saliency_pruning one_shot": lambda e: sparsified(
        e, transforms.saliency_pruning(0.5, transforms.one_shot(1), pattern="2x2")
    ),
    "random_pruning": lambda e: sparsified(
        e, transforms.random_pruning(scalar(0.5), key=e.key()), mask_dtype="packed"
    ),
    "adam_fisher_pruning": lambda e: sparsified(e, transforms.adam_fisher_pruning(0.5), RMS),
    "static_sparse": lambda e: sparsified(e, transforms.static_sparse(0.5, key=e.key())),
    "set": lambda e: sparsified(e, transforms.set(0.5, 2, every=1, key=e.key())),
    "rigl": lambda e: sparsified(e, transforms.rigl(0.5, 2, every=1), mask_dtype="packed"),
    "ac_dc": lambda e: sparsified(e, transforms.ac_dc(0.5, 2, 1, 1, pattern="channels")),
    "straight_through straight_through_decay project_sparsity": through,
    "kept_weights": lambda e: transforms.kept_weights(8, e.x.mean()),
    "hold_zeros": lambda e: updated(transforms.hold_zeros(e.masks()), e),
    "set_mask": lambda e: transforms.set_mask(
        updated(transforms.hold_zeros(e.masks()), e)[1], e.masks()
    ),
    "masked_params": lambda e: transforms.masked_params(
        transforms.hold_zeros(e.masks()).init(e.params), e.params
    ),
    "prune_when_accurate": lambda e: (p := transforms.prune_when_accurate(0.2, 0.1)).update(
        p.init(e.params), e.params, 0.9
    ),
    "prune_state": lambda e: pruned(e, lambda s, pruner, _: transforms.prune_state(s, pruner, 0.9)),
    "pruning_step": lambda e: pruned(
        e,
        lambda s, pruner, optimizer: transforms.pruning_step(
            make_step(loss, optimizer), pruner, lambda params: scalar(0.9), 1
        )(s, {"x": e.x}),
    ),
    "hard_concrete sigmoid apply broadcast_gates per_weight per_input per_output": gate_kinds,
    "combine": combined,
    "clip_params": lambda e: updated(optax.chain(optax.sgd(0.1), gates.clip_params(-1, 1)), e),
    "next_round": lambda e: gates.next_round(e.params, 200.0, 0.1),
    "beta_schedule": lambda e: gates.beta_schedule(10)(jnp.asarray(3, jnp.int32)),
    "constrained_step descent_ascent nupi anneal_bound current_multipliers density_violation "
    "gate_groups init_state": constrained,
    "dual_ascent": lambda e: updated(
        constraints.descent_ascent(optax.sgd(0.1), constraints.dual_ascent(0.1), scalar(0)),
        e,
        violation=scalar(0.1),
    ),
    "expected_density": lambda e: constraints.expected_density(jax.nn.sigmoid(e.x)),
    "lagrangian": lambda e: constraints.lagrangian(scalar(1), scalar(0.2), scalar(0.3)),
    "with_surrogate": lambda e: jax.grad(lambda x: constraints.with_surrogate(x.max(), x.mean()))(
        e.x
    ),
    "indexed": indexed_ascent,
    "implicit_multipliers": implicit_ascent,
    "update_penalty": lambda e: constraints.update_penalty(e.params, e.grads(), 2.0, restart=1.0),
    "augmented_lagrangian": lambda e: constraints.augmented_lagrangian(
        scalar(1), scalar(0.2), scalar(0.3), 10.0
    ),
    "make_step": lambda e: make_step(loss, SGD)(init_state(e.params, SGD, e.key()), {"x": e.x}),
    **{
        name + more: lambda e, method=method: search(e, method)
        for (name, method), more in zip(
            METHODS.items(),
            (
                " init_search search_step found_ticket next_search ones_mask",
                " num_nonzero jaccard rewind",
                " effective_params fixed_mask apply_mask fold_scale",
                "",
            ),
            strict=True,
        )
    },
    "init_population population_step population_scan population_tickets next_population "
    "member": population,
}


def sparse(env):
    return projections.project_l0_ball(env.params, 9)


def saved(env):
    path = env.folder / "network.safetensors"
    deploy.save_sparse(path, sparse(env))
    jax.tree.map(np.testing.assert_array_equal, deploy.load_sparse(path), sparse(env))


def as_forms(env):
    c_step = compression.additive([compression.quantize(2), compression.low_rank(1)], sweeps=2)
    state = sparsejax.learning_compression(c_step, 0.1, 1).init(env.params)
    forms = sparsejax.compressed_forms(c_step, state, env.params)
    assert isinstance(forms["kernel"], compression.SumArray)
    close(
        compression.decode(forms)["kernel"],
        sparsejax.compressed_params(state, env.params)["kernel"],
    )
    inspection.storage_bits(forms)


def factored(env):
    """Two products in place of a kernel of low rank."""
    factors = env.params["kernel"][:, :2], env.params["kernel"][:2]
    params = env.params | {"kernel": compression.LowRankArray(*factors, (8, 8))}
    network = deploy.Network(forward, params)
    decoded = deploy.decode_network(network, env.x)
    assert decoded.params["kernel"]["left"].shape == (8, 2)
    close(decoded(env.x), network(env.x))


def unrolled(env):
    """Two stacked layers one after another."""
    params = jnp.stack([env.params["kernel"]] * 2)
    network = deploy.Network(
        lambda p, x: jax.lax.scan(lambda x, k: ((x @ k).astype(x.dtype), None), x, p)[0], params
    )
    separate = deploy.unroll_layers(network, env.x.astype(params.dtype))
    assert len(separate.params) == 2
    close(separate(env.x.astype(params.dtype)), network(env.x.astype(params.dtype)))


def shrunk(env):
    small = deploy.shrink(deploy.Network(forward, sparse(env)), env.x)
    close(small.function(small.params, env.x), forward(sparse(env), env.x))
    deploy.expand(small)


def compiled(env):
    close(
        deploy.compile_sparse(deploy.Network(forward, sparse(env)), env.x, rounds=1)(env.x),
        forward(sparse(env), env.x),
    )


def exported(env):
    program = deploy.load_stablehlo(
        deploy.export_stablehlo(deploy.Network(forward, env.params), env.x)
    )
    close(program(env.x), forward(env.params, env.x))
    if env.x.dtype == jnp.float32:
        deploy.export_onnx(deploy.Network(forward, env.params), env.x)


def close(got, expected):
    tolerance = 5e-2 if got.dtype == jnp.bfloat16 else 1e-5
    np.testing.assert_allclose(
        np.asarray(got, np.float64), np.asarray(expected, np.float64), atol=tolerance
    )


def checked(env):
    method = tickets.magnitude_pruning(0.2)
    state = tickets.init_search(method, env.params, optax.sgd(0.1), env.key())
    tickets.check_ticket(tickets.found_ticket(method, state), env.params)


def fitted(env):
    optimizer = optax.chain(sparsejax.learning_compression(compression.l0_ball(9), 0.1, 2), SGD)
    state = init_state(env.params, optimizer, env.key())
    folder = training.init_run_dir(env.folder / "run", {}, resume=False)
    options = {
        "callbacks": [
            training.revise(lambda state: state),
            training.report(training.MetricLog(folder)),
        ],
        "checkpoints": training.Checkpoints(folder / "checkpoints", every=2),
    }
    step = make_step(loss, optimizer)
    fit(step, state, training.Batches(env.data(), 2), steps=2, **options)
    fit(step, state, training.Batches(env.data(), 2), steps=4, **options)
    assert len(training.read_metrics(env.folder / "run")) == 2


HOST = {
    "report": lambda e: inspection.report(sparse(e)),
    "chosen num_entries": lambda e: (
        str(sparsejax.chosen(e.params)),
        projections.num_entries(e.params),
    ),
    "bzip2_bytes": lambda e: inspection.bzip2_bytes(sparse(e)),
    "live_units live_unit_masks": lambda e: inspection.live_units({"a": sparse(e)}, ["a"]),
    "macs": lambda e: inspection.macs(forward, e.params, e.x),
    "compressed_forms storage_bits": as_forms,
    "save_sparse load_sparse": saved,
    "decode_network": factored,
    "unroll_layers": unrolled,
    "shrink expand": shrunk,
    "compile_sparse": compiled,
    "export_stablehlo load_stablehlo export_onnx": exported,
    "calibrate": lambda e: oneshot.calibrate(forward, e.params, [e.x]),
    "squared_gradients": lambda e: oneshot.squared_gradients(
        lambda params, batch: loss(params, batch, None)[0], e.params, [{"x": e.x}]
    ),
    "prune_sequentially": lambda e: oneshot.prune_sequentially(
        forward, e.params, [e.x], 0.5, "wanda", directory=e.folder / "pruned"
    ),
    "torch_state": lambda e: deploy.torch_state(e.params),
    "check_ticket": checked,
    "fit revise report read_metrics init_run_dir write_json": fitted,
    "prune magnitude wanda swaps sparsegpt admm layer_errors": pruned_at_once,
    "fsdp_specs": lambda e: fsdp_specs(e.params, jax.make_mesh((8,), ("data",))),
}
ELSEWHERE = {
    "initialize_distributed": "tests/training/test_processes.py starts processes",
    "shard_population": "below, on a mesh",
}


def test_everything_public_is_here():
    public = {
        name
        for room in ROOMS
        for name in room.__all__
        if callable(getattr(room, name))
        and not inspect.isclass(getattr(room, name))
        and typing.get_origin(getattr(room, name)) is None  # type aliases
    }
    public |= {"learning_compression", "compressed_params"}
    here = {name for names in (TRACED | HOST) for name in names.split()} | ELSEWHERE.keys()
    here |= {"learning_compression", "compressed_params"}  # in each C step
    assert public - here == set()


def start(dtype):
    rng = np.random.default_rng(0)
    params = {"kernel": rng.normal(size=(8, 8)), "bias": rng.normal(size=8)}
    return jax.tree.map(lambda w: jnp.asarray(w, dtype), (params, rng.normal(size=(8, 8))))


def explicit():
    """Everything on a mesh whose axes are part of the types."""
    return jax.set_mesh(jax.make_mesh((2, 2), ("a", "b"), axis_types=(AxisType.Explicit,) * 2))


@contextlib.contextmanager
def x64_and_strict():
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        yield


# x64 without strict promotion is not among them: where it would widen, strict promotion raises.
# Nor is strict promotion of float32 without x64: with x64, the same types meet, and wider ones.
SETTINGS = {
    "x64 and strict, float64": (x64_and_strict, jnp.float64, jax.random.key),
    "x64 and strict, float32": (x64_and_strict, jnp.float32, jax.random.key),
    "strict, bfloat16": (lambda: jax.numpy_dtype_promotion("strict"), jnp.bfloat16, jax.random.key),
    "old keys": (contextlib.nullcontext, jnp.float32, jax.random.PRNGKey),
    "explicit": (explicit, jnp.float32, jax.random.key),
}


def traced(call, params, x, key):
    return jax.eval_shape(lambda params, x, key: call(Env(params, x, key)), params, x, key)


def first(name):
    """The id of a test, short enough to be read."""
    return name.split()[0]


@pytest.mark.parametrize("name", TRACED, ids=first)
@pytest.mark.parametrize("setting", SETTINGS)
def test_pure_functions(setting, name):
    enter, dtype, new_key = SETTINGS[setting]
    with enter():
        params, x = start(dtype)
        if setting == "explicit":
            mesh = jax.sharding.get_mesh()
            put = lambda leaf, *spec: jax.device_put(  # noqa: E731
                leaf, NamedSharding(mesh, PartitionSpec(*spec))
            )
            params = {"kernel": put(params["kernel"], None, "b"), "bias": put(params["bias"], "b")}
            x = put(x, "a", None)
        found = traced(TRACED[name], params, x, new_key(0))
    if name == "beta_schedule":
        return  # it computes with what JAX makes of a Python float
    for leaf in jax.tree.leaves(found):
        wide = leaf.dtype in (jnp.float64, jnp.int64)
        assert not wide or setting.endswith("float64"), (leaf, "is wider than what went in")


@pytest.mark.parametrize("name", HOST, ids=first)
@pytest.mark.parametrize("setting", [n for n in SETTINGS if n not in ("explicit", "old keys")])
def test_host_functions(setting, name, tmp_path):
    enter, dtype, new_key = SETTINGS[setting]
    with enter():
        HOST[name](Env(*start(dtype), new_key(0), tmp_path))


@pytest.mark.parametrize("call", [checked, fitted])
def test_host_functions_of_old_keys(call, tmp_path):
    """No others take a key."""
    call(Env(*start(jnp.float32), jax.random.PRNGKey(0), tmp_path))


@pytest.mark.parametrize("name", TRACED, ids=first)
def test_no_nan_on_the_way(name):
    """Also in branches whose results are not used, which ``debug_nans`` does not forgive."""
    with jax.debug_nans(True):
        params, x = start(jnp.float32)
        jax.jit(lambda params, x: TRACED[name](Env(params, x, jax.random.key(0))))(params, x)
