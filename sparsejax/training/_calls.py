"""One call of the training loop: a jitted step, or several scanned in one program."""

from __future__ import annotations

import functools
import types
import weakref
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from sparsejax.training._make_step import State
from sparsejax.training._meshes import mesh_of

Shardings = tuple[Any, ...] | None
LoopFunction = Callable[..., tuple[Any, Any]]
LoopName = Literal["auto", "python", "scan"]


def check_loop(loop: LoopName | LoopFunction, steps_per_call: int | None) -> None:
    """Refuse a loop that there is not.

    Raises:
      ValueError: ``loop`` is no name of a loop and no function, or takes one step per call while
        ``steps_per_call`` asks for more.
    """
    if not callable(loop) and loop not in get_args(LoopName):
        raise ValueError(f"loop must be 'auto', 'python', 'scan' or a function; got {loop!r}")
    if loop == "python" and steps_per_call not in (None, 1):
        raise ValueError(
            f"steps_per_call must be 1 with loop='python', which calls each step by itself; got "
            f"{steps_per_call}"
        )


def shardings_of(state: State) -> Shardings:
    """Return the shardings of a state, which each step preserves; None without a mesh."""
    if mesh_of(state) is None:
        return None
    return tuple(leaf.sharding for leaf in jax.tree.leaves(state))


_COMPILED: dict[tuple[int, ...], Any] = {}


def compiled(step: Any) -> Any:
    """Return the jitted calls of a `StepFunction`, which are `_take_steps` without its ``step``.

    They are kept until the step goes; those of a bound method, which each access makes anew, until
    its object does. If the step were an argument of one jitted function, its cache would keep every
    step, with all that it closes over and its programs.
    """
    is_method = isinstance(step, types.MethodType)
    key = (id(step.__self__), id(step.__func__)) if is_method else (id(step),)
    if key in _COMPILED:
        return _COMPILED[key]

    def forget(_: Any) -> None:
        _COMPILED.pop(key, None)  # before another object may get the id

    try:
        reference = (weakref.WeakMethod if is_method else weakref.ref)(step, forget)
    except TypeError:  # an object of a class with ``__slots__``
        return _jitted(lambda: step)
    return _COMPILED.setdefault(key, _jitted(reference))


def _jitted(reference: Callable[[], Any]) -> Any:
    """Return the jitted calls of the step that is referred to; whoever calls them holds it."""

    def step(state: Any, batch: Any) -> Any:
        return reference()(state, batch)

    return jax.jit(
        functools.partial(_take_steps, step),
        static_argnames=("shardings", "loop"),
        donate_argnames="state",
    )


def _take_steps(
    step: Callable[..., Any],
    state: Any,
    arrays: Any,
    indices: jax.Array | None,
    shardings: Shardings,
    loop: LoopFunction | None,
) -> tuple[Any, Any]:
    """Take one step for each row of ``indices`` (or of ``arrays`` where there are no indices).

    Returns:
      ``(state, metrics)``; the metrics have a leading axis of steps.
    """

    def take(state: Any, arrays: Any, row: Any) -> tuple[Any, Any]:
        batch = row
        if arrays is not None:
            batch = jax.tree.map(lambda array: _rows_of(array, row), arrays)
        # What `scan_is_slow` traces in a scan is found again where the step is called by itself.
        taken: tuple[Any, Any] = jax.jit(step, inline=True)(state, batch)
        return taken

    def hold(state: Any) -> Any:
        """The state, with its sharding."""
        if shardings is None:
            return state
        leaves = map(lax.with_sharding_constraint, jax.tree.leaves(state), shardings)
        return jax.tree.unflatten(jax.tree.structure(state), leaves)

    def take_and_hold(state: Any, row: Any) -> tuple[Any, Any]:
        state, metrics = take(state, arrays, row)
        return hold(state), metrics

    arrays, rows = (None, arrays) if indices is None else (arrays, indices)
    if loop is not None:
        state, metrics = loop(take, state, arrays, rows)
        return hold(state), metrics
    if jax.tree.leaves(rows)[0].shape[0] > 1:
        scanned: tuple[Any, Any] = lax.scan(take_and_hold, state, rows)
        return scanned
    state, metrics = take_and_hold(state, jax.tree.map(lambda array: array[0], rows))
    return state, jax.tree.map(lambda value: value[None], metrics)


def scan_is_slow(calls: Any, state: Any, arrays: Any, indices: Any, shardings: Shardings) -> bool:
    """Whether the scan of a step over several batches is to be avoided; its calls are `compiled`.

    XLA:CPU runs its own convolutions 6 to 10 times slower inside a loop
    (https://github.com/jax-ml/jax/issues/12868).
    """
    device = next(iter(jax.tree.leaves(state)[0].devices()))
    if device.platform != "cpu":
        return False
    # A call finds this trace again if the steps are then scanned, and the step's in any case.
    return _convolves(calls.trace(state, arrays, indices, shardings, None).jaxpr)


def _convolves(jaxpr: Any) -> bool:
    """Whether a convolution occurs in what a CPU runs of a jaxpr, or of one inside it."""
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    for equation in jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            return True
        params = dict(equation.params)
        platforms = params.get("branches_platforms")  # of `lax.platform_dependent`
        if platforms:
            on_cpu = (place for place, names in enumerate(platforms) if names and "cpu" in names)
            params["branches"] = params["branches"][next(on_cpu, len(platforms) - 1)]
        inner = jax.tree.leaves(list(params.values()), is_leaf=lambda leaf: hasattr(leaf, "eqns"))
        if any(hasattr(leaf, "eqns") and _convolves(leaf) for leaf in inner):
            return True
    return False


def _rows_of(array: jax.Array, row: jax.Array) -> jax.Array:
    """The examples of a batch, sharded as their indices are."""
    sharding = jax.typeof(row).sharding
    place = None
    if AxisType.Explicit in sharding.mesh.axis_types:
        place = NamedSharding(
            sharding.mesh, PartitionSpec(*sharding.spec, *(None,) * (array.ndim - 1))
        )
    return array.at[row].get(mode="promise_in_bounds", out_sharding=place)
