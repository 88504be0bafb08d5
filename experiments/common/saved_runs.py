"""Finished runs of any experiment on small images, read back as networks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common import networks
from experiments.data import Dataset, load
from sparsejax import deploy
from sparsejax.compression import decode


class Finished(NamedTuple):
    """A finished network."""

    result: dict[str, Any]
    dataset: Dataset
    network: deploy.Network
    """Logits of images in evaluation mode. The parameters are zero where pruned; statistics of
    batch normalisation are among them."""
    prepare: Callable[[np.ndarray], np.ndarray]
    """From uint8 images to the float32 ones that the function takes."""

    @property
    def name(self) -> str:
        """The name of its row."""
        return str(self.result["name"])

    @property
    def flattened(self) -> dict[str, tuple[int, int]]:
        """The dense layers that read a flattened map, with its sides."""
        return {"dense1": (4, 4)} if self.result["model"] == "lenet5" else {}


def read(folder: Path, data_dir: Path | None, round: int | None, member: int) -> Finished:
    """Read the folder of a run, or of a population of tickets.

    Raises:
      ValueError: it is no finished run, or the population has no such round or member.
    """
    if not (folder / "result.json").exists():
        raise ValueError(f"RUNS must be folders of finished runs; {folder} has no result.json")
    result = json.loads((folder / "result.json").read_text())
    if "rows" in result:  # a population
        number = result["rows"][-1]["round"] if round is None else round
        members = len(result["settings"]["members"])
        if not 0 <= member < members:
            raise ValueError(f"--member must be in 0 to {members - 1} for {folder}; got {member}")
        ticket = folder / f"round_{number}" / f"member_{member}"
        if not ticket.exists():
            raise ValueError(f"--round must be one of {folder}; it has none for {number}")
        return read(ticket, data_dir, None, 0)
    if not {"network", "dataset"} <= result.keys():
        raise ValueError(f"RUNS must be runs of experiments of this project; {folder} is of none")
    model = result["network"]["model"]
    if model not in {**networks.MNIST_MODELS, **networks.CIFAR_MODELS}:
        raise ValueError(f"RUNS must be of networks on small images; {folder} is of {model}")
    dataset = load(result["dataset"], data_dir)
    function, like, prepare = networks.evaluation(result["network"], dataset)
    loaded = decode(deploy.load_sparse(folder / "network.safetensors"))
    network = deploy.Network(function, jax.tree.map(_fitting, like, loaded))
    return Finished(result, dataset, network, prepare)


def _fitting(like: Any, leaf: np.ndarray) -> jax.Array:
    if like.shape != leaf.shape:
        raise ValueError(f"a leaf of the network has shape {leaf.shape}, not {like.shape}")
    return jnp.asarray(leaf)


def error(finished: Finished, logits: Callable[[np.ndarray], Any], split: str = "test") -> float:
    """Misclassified images of a split in per cent."""

    def mistakes(params: None, images: np.ndarray, labels: np.ndarray) -> int:
        del params  # in ``logits``
        found = np.asarray(logits(finished.prepare(images)))
        return int((found.argmax(-1) != labels).sum())

    return float(networks.error(mistakes, None, getattr(finished.dataset, split)))
