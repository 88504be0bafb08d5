"""What a training run carries from step to step, and the step that carries it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sparsejax._extra_args import accepting_extra_args
from sparsejax._states import fresh
from sparsejax._where import PyTree
from sparsejax.training._meshes import automatic, place, specs_like

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
    """A PRNG key, typed or raw; step t uses ``jax.random.fold_in(key, t)``."""


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

    Every array of the state is a copy of its own. So a step may be compiled with
    ``donate_argnums=0``: neither ``params`` and ``key`` nor an array that ``optimizer`` holds is
    deleted with the state, and no buffer is donated twice.

    Args:
      params: the initial parameters; on a mesh, the same values in every process.
      optimizer: any optax transformation.
      key: a PRNG key of ``jax.random.key``, or a raw one of ``jax.random.PRNGKey``.
      mesh: devices to train on, of one process or of several; default the one that JAX defaults to.
        The compiler partitions the work, whatever the kind of the mesh's axes.
      specs: a pytree of ``PartitionSpec`` (a prefix of ``params``) that says how parameters are cut
        over the mesh, such as `fsdp_specs` makes; momentum, theta, multipliers and whatever else an
        optimizer keeps for a parameter are cut like it. Default: every device holds everything
        (data parallelism).

    Raises:
      TypeError: ``key`` is not a PRNG key.
      ValueError: ``specs`` without ``mesh``; or they do not fit the mesh or the parameters.
    """
    _check_key(key)
    step = jnp.asarray(0, jnp.int32)
    if mesh is None:
        if specs is not None:
            raise ValueError("specs are of no use without a mesh; give init_state the mesh too")
        return fresh(TrainState(step, params, optimizer.init(params), key))
    whole = PartitionSpec()
    specs = whole if specs is None else specs
    params = place(params, mesh, specs)
    shapes = jax.eval_shape(optimizer.init, params)
    of_state = specs_like(shapes, params, specs)
    shardings = jax.tree.map(lambda spec: NamedSharding(automatic(mesh), spec), of_state)
    # Compiled with the places of its results, so that no device ever holds all of them.
    opt_state = jax.jit(optimizer.init, out_shardings=shardings)(params)
    return fresh(TrainState(place(step, mesh, whole), params, opt_state, place(key, mesh, whole)))


def make_step(
    loss: LossFunction, optimizer: optax.GradientTransformation, axis_name: str | None = None
) -> StepFunction[Any]:
    """One optimisation step as a pure function, not yet jitted.

    The optimizer gets the extra arguments of optax's protocol: ``value``, the loss; ``grad``, its
    gradient; and ``value_fn``, a function of the parameters that computes the loss of the same
    batch with the same key. So line searches (``optax.lbfgs``,
    ``optax.scale_by_backtracking_linesearch``) and ``optax.contrib.reduce_on_plateau`` work as any
    other transformation does.

    Args:
      loss: ``(params, batch, key) -> (loss, metrics)``; ``metrics`` are scalars, such as an error.
      optimizer: any optax transformation.
      axis_name: for a step inside ``jax.pmap`` or ``jax.shard_map``, where each device sees its
        part of the batch: the axis over which loss, gradients and metrics are averaged (those of
        ``value_fn`` too). The key differs from device to device there. Not needed under ``jit``,
        on a mesh or not.

    Returns:
      ``(state, batch) -> (state, metrics)``; ``metrics`` gains ``loss``. The state may be any
      NamedTuple that has the fields of `TrainState`; further ones are left alone.
    """
    extra_args_optimizer = accepting_extra_args(optimizer)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(state.key, state.step)
        if axis_name is not None:
            key = jax.random.fold_in(key, lax.axis_index(axis_name))

        def loss_of(params: PyTree) -> tuple[jax.Array, Metrics]:
            return loss(params, batch, key)

        (value, metrics), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        value_fn = lambda params: loss_of(params)[0]  # noqa: E731
        if axis_name is not None:
            value, metrics, grads = lax.pmean((value, metrics, grads), axis_name)
            value_fn = _averaged(value_fn, axis_name)
        updates, opt_state = extra_args_optimizer.update(
            grads, state.opt_state, state.params, value=value, grad=grads, value_fn=value_fn
        )
        params = optax.apply_updates(state.params, updates)
        state = state._replace(step=state.step + 1, params=params, opt_state=opt_state)
        return state, {"loss": value, **metrics}

    return step


def _averaged(function: Callable[[PyTree], jax.Array], axis_name: str) -> Callable[..., jax.Array]:
    """The mean over the devices of a mapped axis, with the mean of the gradients as its gradient.

    Differentiating ``pmean(function(x))`` on each device would give that device's gradient alone.
    """

    @jax.custom_jvp
    def mean(params: PyTree) -> jax.Array:
        return lax.pmean(function(params), axis_name)

    @mean.defjvp
    def derivative(primals, tangents):
        value, grads = lax.pmean(jax.value_and_grad(function)(*primals), axis_name)
        return value, optax.tree.vdot(grads, *tangents).astype(value.dtype)

    return mean


def _check_key(key: jax.Array) -> None:
    dtype = getattr(key, "dtype", None)
    is_key = dtype is not None and (
        jnp.issubdtype(dtype, jax.dtypes.prng_key) or (dtype == jnp.uint32 and jnp.ndim(key) == 1)
    )
    if not is_key:
        raise TypeError(
            "key must be a PRNG key, such as jax.random.key(0) or jax.random.PRNGKey(0); got "
            f"{key!r} ({type(key).__name__})"
        )
