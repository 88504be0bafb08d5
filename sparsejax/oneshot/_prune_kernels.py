"""Pruning of kernels to given budgets, a matrix after the other."""

from __future__ import annotations

import functools
import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from sparsejax.oneshot._errors import relative_error
from sparsejax.oneshot._kernel_budgets import KernelBudget
from sparsejax.oneshot._kernels import Kernel, Kernels
from sparsejax.oneshot._method import Method
from sparsejax.oneshot._patterns import Pattern
from sparsejax.oneshot._progress import Progress


class _Job(NamedTuple):
    """One matrix to be pruned."""

    kernel: Kernel
    number: int
    """Which of the kernel's matrices it is."""
    arrays: tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]
    """The matrix, the moments of its inputs, how many of its items are kept, and the scales of its
    outputs' errors."""


class _Done(NamedTuple):
    """A pruned matrix."""

    weights: Float[Array, "outputs inputs"]
    damping: Float[Array, ""]
    error: Float[Array, ""]


def prune_kernels(
    kernels: Kernels,
    budgets: Sequence[KernelBudget],
    method: Method,
    pattern: Pattern,
    vmap_size: int,
    report: Progress,
) -> PyTree[Array]:
    """Return the tree of the kernels with each of them pruned to its budget.

    Its arguments are checked, and the warnings point at the caller of its caller.

    Args:
      kernels: the kernels of a tree, with their calibration.
      budgets: the budget of each.
      method: prunes a matrix.
      pattern: what is pruned together.
      vmap_size: the number of matrices of one shape that one program prunes together.
      report: is told of each kernel that is done.
    """
    if method.uses_inputs:
        _warn_of_zeros(kernels.kernels)
    results: dict[str, dict[int, _Done]] = {kernel.name: {} for kernel in kernels.kernels}
    devices = itertools.cycle(kernels.devices)
    jobs = _jobs(kernels, budgets, by_shape=vmap_size > 1)
    for _, same in itertools.groupby(jobs, lambda job: job.kernel.signature):
        while part := list(itertools.islice(same, vmap_size)):
            for job, done in zip(part, _run(part, method, pattern, next(devices)), strict=True):
                found = results[job.kernel.name]
                found[job.number] = done
                if report.wanted and len(found) == job.kernel.layout.batch:
                    errors = [float(one.error) for one in found.values()]
                    report(job.kernel.name, sum(errors) / len(errors))
    _check(results)
    return kernels.put_back(
        {
            name: jnp.stack(
                [jax.device_put(done[n].weights, kernels.devices[0]) for n in sorted(done)]
            )
            for name, done in results.items()
        }
    )


def _jobs(kernels: Kernels, budgets: Sequence[KernelBudget], by_shape: bool) -> Iterator[_Job]:
    """Yield all matrices; those of a kernel are made when its first one is asked for."""
    pairs = list(zip(kernels.kernels, budgets, strict=True))
    if by_shape:
        pairs.sort(key=lambda pair: pair[0].signature)
    for kernel, (counts, scales) in pairs:
        matrices, moments = kernel.matrices(), kernel.moments()
        for index, count in enumerate(counts):
            kept = jnp.asarray(count, jnp.int32)
            scale = None if scales is None else scales[index]
            yield _Job(kernel, index, (matrices[index], moments[index], kept, scale))


def _run(jobs: Sequence[_Job], method: Method, pattern: Pattern, device: jax.Device) -> list[_Done]:
    """Prune matrices of one shape in one program."""
    inputs = [jax.device_put(job.arrays, device) for job in jobs]
    if len(jobs) == 1:
        return [_prune_one(*inputs[0], method, pattern)]
    stacked = jax.tree.map(lambda *each: jnp.stack(each), *inputs)
    done = _prune_several(*stacked, method, pattern)
    return [_Done(*(each[n] for each in done)) for n in range(len(jobs))]


@functools.partial(jax.jit, static_argnames="pattern")
def _prune_one(
    weights: jax.Array,
    gram: jax.Array,
    count: jax.Array,
    scale: jax.Array | None,
    method: Method,
    pattern: Pattern,
) -> _Done:
    if not method.uses_inputs:
        scale = None  # the method minimises no error
    # The error of an output scales as its weights do.
    scaled = weights if scale is None else weights * scale[:, None]
    pruned, damping = method.prune(scaled, gram, pattern, count)
    if scale is not None:
        # Methods that only choose weights leave them as they are to the bit.
        pruned = jnp.where(pruned == scaled, weights, pruned / scale[:, None])
    return _Done(pruned, damping, relative_error(weights, pruned, gram))


@functools.partial(jax.jit, static_argnames="pattern")
def _prune_several(
    weights: jax.Array,
    grams: jax.Array,
    counts: jax.Array,
    scales: jax.Array | None,
    method: Method,
    pattern: Pattern,
) -> _Done:
    prune: Callable[..., _Done] = jax.vmap(
        functools.partial(_prune_one, method=method, pattern=pattern)
    )
    return prune(weights, grams, counts, scales)


def _warn_of_zeros(kernels: Sequence[Kernel]) -> None:
    """Warn of matrices all of whose inputs were 0, since all of their weights become 0."""
    for kernel in kernels:
        active = jnp.diagonal(kernel.gram, axis1=1, axis2=2) > 0
        if not bool(active.any(1).all()):
            warnings.warn(
                f"the inputs of {kernel.name} are 0 in all rows of the calibration, or their "
                "squares underflow; all of its weights become 0. Leave it out by where=, or "
                "calibrate with batches that reach it",
                UserWarning,
                stacklevel=4,
            )


def _check(results: dict[str, dict[int, _Done]]) -> None:
    """Check that all results are finite, and say which Gram matrices were singular."""
    raised: dict[str, float] = {}
    for name, found in results.items():
        for done in found.values():
            if not bool(jnp.isfinite(done.weights).all()):
                raise ValueError(
                    f"calibration must hold Gram matrices that damping makes regular; that of "
                    f"{name} leads to weights that are not finite"
                )
            raised[name] = max(raised.get(name, 0), float(done.damping))
    raised = {name: damping for name, damping in raised.items() if damping > 0}
    if raised:
        worst = max(raised, key=raised.__getitem__)
        warnings.warn(
            f"the Gram matrices of {len(raised)} kernels were singular in floating point and were "
            f"damped more than asked for, that of {worst} by {raised[worst]:g} of its mean "
            "diagonal. More calibration batches or a higher damping avoid this",
            UserWarning,
            stacklevel=4,
        )
