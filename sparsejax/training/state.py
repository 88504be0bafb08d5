"""What a training run carries from step to step, and the step that carries it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sparsejax._where import PyTree
from sparsejax.training.meshes import automatic, place, specs_like

Batch = Mapping[str, jax.Array]
Metrics = Mapping[str, jax.Array]
LossFunction = Callable[[PyTree, Batch, jax.Array], tuple[jax.Array, Metrics]]


class TrainState(NamedTuple):
    """Everything a step changes: a pytree of arrays, so that it is saved and sharded as a whole."""

    step: jax.Array
    """int32: steps taken. With the seed it fixes the epoch, the position in it and the batch."""
    params: PyTree
    opt_state: PyTree
    key: jax.Array
    """A typed PRNG key; step t uses ``jax.random.fold_in(key, t)``."""


class State(Protocol):
    """What `fit` reads of a state, a pytree of arrays: `TrainState`, or one of your own."""

    @property
    def step(self) -> jax.Array:
        """An int32 scalar: steps taken."""

    @property
    def params(self) -> PyTree:
        """What is trained."""


AnyState = TypeVar("AnyState", bound=State)
StepFunction = Callable[[AnyState, Batch], tuple[AnyState, Metrics]]


def init_state(
    params: PyTree,
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    mesh: Mesh | None = None,
    specs: PyTree = None,
) -> TrainState:
    """The state before the first step, with ``optimizer.init(params)``.

    Args:
      params: the initial parameters; on a mesh, the same values in every process.
      optimizer: any optax transformation.
      key: a typed PRNG key.
      mesh: devices to train on, of one process or of several; default the one that JAX defaults to.
        The compiler partitions the work, whatever the kind of the mesh's axes.
      specs: a pytree of ``PartitionSpec`` (a prefix of ``params``) that says how parameters are cut
        over the mesh, such as `fsdp_specs` makes; momentum, theta, multipliers and whatever else an
        optimizer keeps for a parameter are cut like it. Default: every device holds everything
        (data parallelism).

    Raises:
      ValueError: ``specs`` without ``mesh``; or they do not fit the mesh or the parameters.
    """
    step = jnp.asarray(0, jnp.int32)
    if mesh is None:
        if specs is not None:
            raise ValueError("specs are of no use without a mesh; give init_state the mesh too")
        return TrainState(step, params, optimizer.init(params), key)
    whole = PartitionSpec()
    specs = whole if specs is None else specs
    params = place(params, mesh, specs)
    shapes = jax.eval_shape(optimizer.init, params)
    of_state = specs_like(shapes, params, specs)
    shardings = jax.tree.map(lambda spec: NamedSharding(automatic(mesh), spec), of_state)
    # Compiled with the places of its results, so that no device ever holds all of them.
    opt_state = jax.jit(optimizer.init, out_shardings=shardings)(params)
    return TrainState(place(step, mesh, whole), params, opt_state, place(key, mesh, whole))


def make_step(
    loss: LossFunction, optimizer: optax.GradientTransformation, axis_name: str | None = None
) -> StepFunction[Any]:
    """One optimisation step as a pure function, not yet jitted.

    Args:
      loss: ``(params, batch, key) -> (loss, metrics)``; ``metrics`` are scalars, such as an error.
      optimizer: any optax transformation.
      axis_name: for a step inside ``jax.pmap`` or ``jax.shard_map``, where each device sees its
        part of the batch: the axis over which gradients and metrics are averaged. The key differs
        from device to device there. Not needed under ``jit``, on a mesh or not.

    Returns:
      ``(state, batch) -> (state, metrics)``; ``metrics`` gains ``loss``. The state may be any
      NamedTuple that has the fields of `TrainState`; further ones are left alone.
    """

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(state.key, state.step)
        if axis_name is not None:
            key = jax.random.fold_in(key, lax.axis_index(axis_name))
        (value, metrics), grads = jax.value_and_grad(loss, has_aux=True)(state.params, batch, key)
        if axis_name is not None:
            value, metrics, grads = lax.pmean((value, metrics, grads), axis_name)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        state = state._replace(step=state.step + 1, params=params, opt_state=opt_state)
        return state, {"loss": value, **metrics}

    return step
