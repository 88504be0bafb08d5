"""What `fit` holds in memory: the state once if it is donated, and no step that has gone."""

import dataclasses
import gc
import operator
import tracemalloc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sparsejax.training import Batches, Callback, Checkpoints, fit, init_state, make_step
from sparsejax.training._checkpoints import _sums
from tests.reference import live_bytes
from tests.training.mlp import assert_same_bits

pytestmark = pytest.mark.usefixtures("quick_collection")
DATA = {"x": np.zeros((8, 2), np.float32)}
SIZE = 4 * 250_000  # bytes of the parameters
STATE = 3 * SIZE  # with Adam's moments


def build(offset=0.0):
    """A step of Adam and its first state, of which nothing else holds an array."""
    optimizer = optax.adam(0.1)

    def loss(params, batch, key):
        return ((params["kernel"] - offset) ** 2).mean(), {}

    params = {"kernel": jnp.ones(SIZE // 4)}
    return make_step(loss, optimizer), init_state(params, optimizer, jax.random.key(0))


def train(step, state, before, **options):
    """Train; return the last state and the most bytes that were live after a step."""
    seen = []
    measure = Callback(lambda step, state, metrics: seen.append(live_bytes() - before), 1)
    return fit(step, state, Batches(DATA, 4), callbacks=[measure], **options), max(seen, default=0)


@pytest.mark.parametrize("loop", ["python", "scan"])
def test_a_donated_state_is_held_once(loop):
    before = live_bytes()
    step, state = build()
    kept, twice = train(step, state, before, steps=3, loop=loop)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    assert 2 * STATE <= twice < 2.1 * STATE
    kept = jax.tree.map(np.array, kept._replace(key=jax.random.key_data(kept.key)))  # copies
    donated, once = train(step, state, before, steps=3, loop=loop, donate_state=True)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    assert STATE <= once < 1.1 * STATE
    assert_same_bits(donated._replace(key=jax.random.key_data(donated.key)), kept)
    del state, donated
    assert live_bytes() - before < 0.1 * STATE


@pytest.mark.parametrize("donate", [False, True])
def test_a_checkpoint_takes_the_place_of_a_donated_state(donate, tmp_path):
    before = live_bytes()
    step, state = build()
    first, _ = train(step, state, before, steps=2, checkpoints=Checkpoints(tmp_path))
    first = int(first.step)
    resumed, most = train(
        step, state, before, steps=4, checkpoints=Checkpoints(tmp_path), donate_state=donate
    )
    assert (first, int(resumed.step)) == (2, 4)
    assert all(leaf.is_deleted() == donate for leaf in jax.tree.leaves(state))
    assert most < (1.1 if donate else 2.1) * STATE


def test_a_donated_state_comes_back_where_no_step_is_taken():
    step, state = build()
    for donate in (True, False):
        found, _ = train(step, state, 0, steps=0, donate_state=donate)
        same = [a is b for a, b in zip(*map(jax.tree.leaves, (found, state)), strict=True)]
        assert same == [donate] * len(same)
        assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(state))


def test_leaves_may_be_of_numpy_though_donated():
    step, state = build()
    kernel = np.full(SIZE // 4, 2.0, np.float32)
    state = state._replace(step=np.int32(0), params={"kernel": kernel})
    expected, _ = train(step, state, 0, steps=2)
    found, _ = train(step, state, 0, steps=2, donate_state=True)
    assert_same_bits(found, expected)
    assert (kernel == 2).all()


class Trainer:
    """An object that is a step, and has one as a method; all of them are equal."""

    def __init__(self, wrapped):
        self.wrapped = wrapped

    def __eq__(self, other):
        return isinstance(other, Trainer)

    def __hash__(self):
        return 0

    def __call__(self, state, batch):
        return self.wrapped(state, batch)

    def step(self, state, batch):
        return self.wrapped(state, batch)

    def step_back(self, state, batch):
        new, metrics = self.wrapped(state, batch)
        back = jax.tree.map(lambda old, new: 2 * old - new, state.params, new.params)
        return new._replace(params=back), metrics


@dataclasses.dataclass(slots=True)
class Slotted:
    """As before, but it has no hash, and no weak reference to it is possible."""

    wrapped: object

    __call__ = step = Trainer.step


method = operator.attrgetter("step")
FORMS = {
    "function": (lambda step: step, lambda made: made),
    "jitted": (jax.jit, lambda made: made),
    "object": (Trainer, lambda made: made),
    "method": (Trainer, method),
    "slots": (Slotted, lambda made: made),
    "method of slots": (Slotted, method),
}
"""What is made of a function, and how the step that is passed is accessed."""


@pytest.mark.parametrize("form", FORMS)
def test_a_step_goes_with_all_that_it_closes_over(form):
    make, access = FORMS[form]
    before = live_bytes()
    step, state = build(offset=jnp.ones(SIZE // 4))
    alive, made = weakref.ref(step), make(step)
    fit(access(made), state, Batches(DATA, 4), steps=2, donate_state=True)
    del step, state, made
    gc.collect()
    assert alive() is None
    assert live_bytes() - before < 0.1 * SIZE


@pytest.mark.parametrize("form", FORMS)
def test_a_step_is_compiled_once_for_several_runs(form):
    traced = []

    def loss(params, batch, key):
        traced.append(True)
        return (params["kernel"] ** 2).mean(), {}

    make, access = FORMS[form]
    optimizer = optax.sgd(0.1)
    made = make(make_step(loss, optimizer))
    state = init_state({"kernel": jnp.ones(3)}, optimizer, jax.random.key(0))
    for _ in range(3):
        fit(access(made), state, Batches(DATA, 4), steps=4)
        gc.collect()
    assert len(traced) == (3 if make is Slotted else 1)


def test_steps_that_are_equal_are_not_taken_for_each_other():
    slow, fast = (Trainer(make_step(loss_of_sum, optax.sgd(rate))) for rate in (0.1, 0.2))
    state = init_state({"kernel": jnp.ones(())}, optax.sgd(0.1), jax.random.key(0))
    steps = (slow, fast, slow.step, fast.step, fast.step_back)
    ends = [fit(step, state, Batches(DATA, 4), steps=1).params["kernel"] for step in steps]
    np.testing.assert_allclose(ends, [0.9, 0.8, 0.9, 0.8, 1.2], rtol=1e-6)


def loss_of_sum(params, batch, key):
    return params["kernel"].sum(), {}


def test_the_sums_of_a_checkpoint_are_read_in_pieces(tmp_path):
    (tmp_path / "large").write_bytes(bytes(2**24))
    tracemalloc.start()
    try:
        _sums(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 2**21
    finally:
        tracemalloc.stop()
