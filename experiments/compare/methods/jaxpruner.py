"""RigL of JaxPruner, to compare ours with: from a checkout that `use` makes importable."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import optax

from experiments.compare.methods.masked_updates import SPARSE_START
from experiments.compare.methods.method import Method
from experiments.compare.trainer import Trainer
from sparsejax.training import TrainState, init_state, make_step


def use(folder: Path) -> None:
    """Make JaxPruner importable from a checkout.

    Raises:
      ValueError: the folder is no checkout, or a package that it needs is missing.
    """
    if not (folder / "jaxpruner" / "__init__.py").is_file():
        raise ValueError(f"--jaxpruner must be a checkout of JaxPruner; got {folder}")
    sys.path.insert(0, str(folder))
    if not hasattr(jax, "tree_map"):  # which it still calls
        jax.tree_map = jax.tree.map  # type: ignore[attr-defined]
    try:
        importlib.import_module("jaxpruner")
    except ImportError as error:
        raise ValueError(f"--jaxpruner {folder} cannot be imported: {error}") from error


def commit(folder: Path) -> str | None:
    """Return the commit of a checkout; None where git cannot tell, or the folder is part of another
    repository.
    """
    command = ["git", "-C", str(folder), "rev-parse", "--show-toplevel", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    top, head = found.stdout.splitlines()
    return head if Path(top).resolve() == folder.resolve() else None


def _search(trainer: Trainer, epochs: int) -> Any:
    peer = importlib.import_module("jaxpruner")
    erk = peer.sparsity_distributions.erk
    steps = epochs * trainer.steps_per_epoch
    end = steps * 3 // 4
    updater = peer.RigL(
        sparsity_distribution_fn=lambda params: erk(params, trainer.sparsity),
        scheduler=peer.sparsity_schedules.PolynomialSchedule(
            update_freq=max(1, steps // trainer.scaled(400)),
            update_start_step=1,
            update_end_step=end,
        ),
        drop_fraction_fn=optax.cosine_decay_schedule(trainer.settings["drop_fraction"], end),
        rng_seed=jax.random.key(trainer.seed),
    )
    structure = jax.tree.structure(trainer.initial)
    optimizer = _kernels_and_biases(
        updater.wrap_optax(trainer.sgd(trainer.settings["rate"], epochs)),
        trainer.sgd(trainer.settings["rate"], epochs),
    )

    def whole(params: Any) -> Any:
        found = params["kernels"] | params["biases"]
        return jax.tree.unflatten(structure, [found[name] for name in sorted(found)])

    def loss(params: Any, batch: Any, key: jax.Array) -> Any:
        return trainer.loss(whole(params), batch, key)

    def masked(state: TrainState) -> TrainState:
        kernels = updater.post_gradient_update(state.params["kernels"], state.opt_state[0])
        return state._replace(params=state.params | {"kernels": kernels})

    descend = make_step(loss, optimizer)

    def step(state: TrainState, batch: Any) -> tuple[TrainState, Any]:
        state, metrics = descend(state, batch)
        return masked(state), metrics

    leaves = {f"leaf_{n:02}": leaf for n, leaf in enumerate(jax.tree.leaves(trainer.initial))}
    split = {
        "kernels": {name: leaf for name, leaf in leaves.items() if leaf.ndim > 1},
        "biases": {name: leaf for name, leaf in leaves.items() if leaf.ndim < 2},
    }
    state = masked(init_state(split, optimizer, jax.random.key(trainer.seed)))
    return whole(trainer.run("search", step, state, epochs, lambda s: whole(s.params)).params)


def _kernels_and_biases(
    of_kernels: optax.GradientTransformation, of_biases: optax.GradientTransformation
) -> optax.GradientTransformation:
    """One optimizer for each: JaxPruner's RigL takes no leaf without a mask on current JAX."""

    def init(params: Any) -> Any:
        return of_kernels.init(params["kernels"]), of_biases.init(params["biases"])

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        kernels, first = of_kernels.update(updates["kernels"], state[0], params["kernels"])
        biases, second = of_biases.update(updates["biases"], state[1], params["biases"])
        return {"kernels": kernels, "biases": biases}, (first, second)

    return optax.GradientTransformation(init, update)


RIGL = Method(
    "RigL of JaxPruner",
    _search,
    [{"rate": rate, "drop_fraction": drop} for rate in (0.1, 0.2) for drop in (0.3, 0.5)],
    shared=SPARSE_START,
    always_sparse=True,
)
