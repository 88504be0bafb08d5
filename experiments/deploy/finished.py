"""The network that a run of any experiment ended with, as a pure function of its parameters."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.constrained_l0.networks import GatedNetwork
from experiments.data import Dataset, load
from experiments.tickets import networks
from sparsejax.models import LeNet5, LeNet300, ResNet20, VGG16Cifar
from sparsejax.training import Checkpoints


class Finished(NamedTuple):
    """A finished network."""

    name: str
    """Of its row."""
    model: str
    dataset: Dataset
    dataset_name: str
    function: Callable[[Any, jax.Array], jax.Array]
    """``(params, images) -> logits``, in evaluation mode."""
    params: Any
    """Zero where pruned; statistics of batch normalisation among them."""
    prepare: Callable[[np.ndarray], np.ndarray]
    """From uint8 images to the float32 ones that the function takes."""
    seed: int
    flattened: dict[str, tuple[int, int]]
    """The dense layers that read a flattened map, with its sides."""
    activation: str = "relu"


def finished(
    folder: Path, data_dir: Path | None = None, round: int | None = None, member: int = 0
) -> Finished:
    """Read a run's folder.

    Raises:
      ValueError: it is no finished run of an experiment of ours, or has no such round or member.
    """
    file = folder / "result.json"
    if not file.exists():
        raise ValueError(f"RUNS must be folders of finished runs; {folder} has no result.json")
    settings = json.loads(file.read_text())["settings"]
    for mark, read in _EXPERIMENTS.items():
        if mark in settings:
            return read(folder, settings, data_dir, round, member)
    raise ValueError(f"RUNS must be runs of experiments of this project; {folder} is of none")


def _plain(model: type[nnx.Module], *arguments: Any) -> tuple[Any, Any]:
    """The function of an MNIST network, and the structure of its parameters."""
    made = nnx.eval_shape(lambda: model(*arguments, rngs=nnx.Rngs(0)))
    graph, params, rest = nnx.split(made, nnx.Param, ...)
    like = nnx.to_pure_dict(params)
    structure = jax.tree.structure(params)

    def function(params, images):
        state = jax.tree.unflatten(structure, jax.tree.leaves(params))
        return nnx.merge(graph, state, rest)(images)

    return function, jax.tree.structure(like)


def _in_unit_range(images: np.ndarray) -> np.ndarray:
    return np.asarray(images, np.float32) / 255


def _mnist(
    name: str,
    model: str,
    dataset: str,
    data_dir: Path | None,
    leaves: Any,
    seed: int,
    activation: Literal["relu", "tanh"] = "relu",
) -> Finished:
    if model == "lenet5":
        function, structure = _plain(LeNet5)
    else:
        function, structure = _plain(LeNet300, activation)
    params = jax.tree.unflatten(structure, [jnp.asarray(leaf) for leaf in leaves])
    data = load(dataset, data_dir)
    maps = {"dense1": (4, 4)} if model == "lenet5" else {}
    return Finished(
        name, model, data, dataset, function, params, _in_unit_range, seed, maps, activation
    )


def _leaves(folder: Path) -> list[np.ndarray]:
    """Of network.npz, in the order of the tree: that of their names."""
    with np.load(folder / "network.npz") as file:
        return [file[name] for name in sorted(file.files)]


def _learning_compression(folder, settings, data_dir, round, member) -> Finished:
    del round, member
    return _mnist(
        f"lenet300_{settings['row']}", "lenet300", "mnist", data_dir, _leaves(folder),
        settings["seed"], settings["activation"],
    )  # fmt: skip


def _gated_decay(folder, settings, data_dir, round, member) -> Finished:
    del round, member
    dataset = settings["row"]
    if dataset not in ("mnist", "fashion_mnist"):
        raise ValueError(f"RUNS must be of networks on small images; {folder} is on {dataset}")
    composed = f"_{settings['kappa']}" if settings["kappa"] else ""
    name = f"lenet5_{dataset}{composed}"
    return _mnist(name, "lenet5", dataset, data_dir, _leaves(folder), settings["seed"])


def _constrained_l0(folder, settings, data_dir, round, member) -> Finished:
    """Its weights are in the last checkpoint; those of evaluation have the median gates."""
    del round, member
    network = GatedNetwork(
        settings["network"], (settings["first_drop_rate"], settings["drop_rate"]), settings["seed"]
    )
    arrays = _checkpoint(folder / "checkpoints")
    params = jax.tree.unflatten(
        jax.tree.structure(network.initial), _under(arrays, ".params", folder)
    )
    model = {"mlp": "lenet300", "lenet5": "lenet5"}[settings["network"]]
    leaves = jax.tree.leaves(network.settled(jax.tree.map(jnp.asarray, params)))
    return _mnist(settings["row"], model, "mnist", data_dir, leaves, settings["seed"])


def _tickets(folder, settings, data_dir, round, member) -> Finished:
    """The trained ticket of a round, from the population's last checkpoint of that round."""
    members = len(settings["members"])
    if not 0 <= member < members:
        raise ValueError(f"--member must be in 0 to {members - 1} for {folder}; got {member}")
    number = settings["rounds"] if round is None else round
    itself = settings["method"] in ("imp", "imp_continued")  # the round trained its ticket
    phase = folder / (f"round_{number}" if itself else f"ticket_{number - 1}")
    if not phase.is_dir():
        raise ValueError(f"--round must be one of {folder}; it has none for {number}")
    arrays = _checkpoint(phase / "checkpoints")
    kept, mask, statistics = (
        [array[member] for array in _under(arrays, part, phase, needed=part != ".statistics")]
        for part in (".params['weights']", ".search.mask", ".statistics")
    )
    # A file that does not say is from a time when scales were folded into the weights.
    scale = next(
        iter(_under(arrays, ".search.hyper['scale']", phase, needed=False)), np.ones(members)
    )
    weights = _masked(kept, mask, scale[member])
    model, dataset = settings["model"], settings["dataset"]
    seed = int(settings["members"][member]["seed"])
    name = f"{model}_{dataset}_{settings['method']}"
    if model in networks.MNIST_MODELS:
        return _mnist(name, model, dataset, data_dir, weights, seed)
    return _cifar(name, model, settings, data_dir, weights, statistics, seed)


def _masked(
    weights: list[np.ndarray], masks: list[np.ndarray], scale: np.ndarray
) -> list[np.ndarray]:
    """A mask has the leaves that are pruned, which are the kernels, in their order."""
    left = iter(masks)
    return [w * scale.astype(w.dtype) * next(left) if w.ndim > 1 else w for w in weights]


def _cifar(name, model, settings, data_dir, weights, statistics, seed) -> Finished:
    data = load("cifar10", data_dir)
    make: Any = {"resnet20": ResNet20, "vgg16": VGG16Cifar}[model]
    made = make(10, settings["width"], jnp.dtype(settings["dtype"]), rngs=nnx.Rngs(0))
    made.eval()
    graph, params, running, rest = nnx.split(made, nnx.Param, nnx.BatchStat, ...)
    tree = {"params": nnx.to_pure_dict(params), "statistics": nnx.to_pure_dict(running)}
    there = jax.tree.structure(tree)
    parts = jax.tree.structure(params), jax.tree.structure(running)

    def function(tree, images):
        states = (
            jax.tree.unflatten(part, jax.tree.leaves(tree[key]))
            for part, key in zip(parts, ("params", "statistics"), strict=True)
        )
        return nnx.merge(graph, *states, rest)(images)

    mean, deviation = networks.channels(data)

    def prepare(images):
        return (np.asarray(images, np.float32) - mean) / deviation

    leaves = [jnp.asarray(leaf) for leaf in (*weights, *statistics)]
    tree = jax.tree.unflatten(there, leaves)
    return Finished(name, model, data, "cifar10", function, tree, prepare, seed, {})


def _checkpoint(folder: Path) -> Mapping[str, np.ndarray]:
    if not folder.is_dir():
        raise ValueError(f"RUNS must be folders of finished runs; {folder} is missing")
    checkpoints = Checkpoints(folder)
    try:
        return checkpoints.arrays()
    finally:
        checkpoints.close()


def _under(
    arrays: Mapping[str, np.ndarray], part: str, folder: Path, needed: bool = True
) -> list[np.ndarray]:
    found = [array for name, array in arrays.items() if name.startswith(part)]
    if not found and needed:
        raise ValueError(f"RUNS must be folders of finished runs; {folder} holds no {part}")
    return found


_EXPERIMENTS = {  # by a setting that only this experiment has
    "l_steps": _learning_compression,
    "prune_epochs": _gated_decay,
    "dual": _constrained_l0,
    "members": _tickets,
}
