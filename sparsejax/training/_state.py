"""The state before the first training step."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from sparsejax._names import named_leaves
from sparsejax._states import fresh
from sparsejax._train_state import TrainState
from sparsejax._where import check_array
from sparsejax.training._meshes import automatic, place, specs_like


def init_state(
    params: PyTree,
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    mesh: Mesh | None = None,
    specs: PyTree = None,
    statistics: PyTree = None,
) -> TrainState:
    """Build the state before the first step, with ``optimizer.init(params)``.

    Every array of the state is a copy of its own. A step may therefore be compiled with
    ``donate_argnums=0``: neither ``params`` and ``key`` nor an array that ``optimizer`` holds is
    deleted with the state, and no buffer is donated twice.

    Args:
      params: the initial parameters, any pytree of arrays; on a mesh, the same values in every
        process.
      optimizer: any optax transformation.
      key: a PRNG key of ``jax.random.key``, or a raw one of ``jax.random.PRNGKey``.
      mesh: the devices to train on, of one process or of several; default the one device that JAX
        defaults to. The compiler partitions the work, whatever the kind of the mesh's axes.
      specs: a pytree of ``PartitionSpec`` (a prefix of ``params``) that says how the parameters are
        sharded over the mesh; `fsdp_specs` makes one. Momentum, theta, multipliers and whatever
        else an optimizer keeps for a parameter are sharded like it. By default every device holds
        everything (data parallelism).
      statistics: what the loss reads beside the parameters and no gradient changes, a pytree of
        arrays: running statistics, or arrays that stay as they are, such as a teacher's parameters.
        As part of the state they are arguments of a compiled step; arrays that the loss closes over
        become constants of its program. Every device of a mesh holds all of them.

    Returns:
      A `TrainState` at step 0.

    Raises:
      TypeError: ``key`` is not a PRNG key, or a leaf of ``params`` or ``statistics`` is not an
        array.
      ValueError: ``specs`` is given without ``mesh``, or does not fit the mesh or the parameters.
    """
    _check_key(key)
    for label, leaf in [*named_leaves(params), *named_leaves(statistics)]:
        check_array(label or "the leaf", leaf)
    step = jnp.asarray(0, jnp.int32)
    if mesh is None:
        if specs is not None:
            raise ValueError("specs are of no use without a mesh; give init_state the mesh too")
        return fresh(TrainState(step, params, optimizer.init(params), key, statistics))
    replicated = PartitionSpec()
    specs = replicated if specs is None else specs
    params = place(params, mesh, specs)
    shapes = jax.eval_shape(optimizer.init, params)
    of_state = specs_like(shapes, params, specs)
    shardings = jax.tree.map(lambda spec: NamedSharding(automatic(mesh), spec), of_state)
    # Compiled with the shardings of its results, so that no device ever holds all of them.
    opt_state = jax.jit(optimizer.init, out_shardings=shardings)(params)
    step, key, statistics = (place(tree, mesh, replicated) for tree in (step, key, statistics))
    return fresh(TrainState(step, params, opt_state, key, statistics))


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
