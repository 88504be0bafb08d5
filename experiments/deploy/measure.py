"""All that is measured of a finished network, under one way of calling programs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.common.results import summary
from experiments.deploy.config import Config
from experiments.deploy.finished import Finished, finished
from experiments.deploy.forms import DENSE, Form, error, files, forms
from experiments.deploy.timing import by_turns
from sparsejax import deploy, inspection


def measure(config: Config, run: Path) -> dict[str, Any]:
    """The row of a run; times of the forms as they are under JAX's present settings."""
    network = finished(run, config.data_dir, config.round, config.member)
    folder = config.output / network.name
    folder.mkdir(parents=True, exist_ok=True)
    row = _weights(network, folder)
    print(f"{network.name}: {row['nonzeros']:,} of {row['parameters']:,} weights", flush=True)
    found: dict[str, dict[str, Any]] = {}
    for batch, field in ((1, "latency"), (config.batch_size, "batch")):
        made, row["missing"] = forms(network, batch, folder, config.kinds)
        images = network.prepare(network.dataset.test.images[:batch])
        expected = np.asarray(made[DENSE].run(made[DENSE].place(images)))
        calls = {name: _call(form, images) for name, form in made.items()}
        seconds = by_turns(calls, config.rounds)
        for name, form in made.items():
            logits = np.asarray(form.run(form.place(images)))
            difference = float(np.abs(logits - expected).max() / np.abs(expected).max())
            entry = found.setdefault(name, {"form": name, "difference": 0.0})
            entry["difference"] = max(entry["difference"], difference)
            entry[f"{field}_seconds"] = seconds[name]
            if form.kinds is not None:
                entry[f"{field}_kinds"] = form.kinds
            if form.file:
                entry["file_bytes"] = form.file.stat().st_size
    for name, form in made.items():
        found[name]["test_error"] = error(network, _from_images(form))
    row["batch_size"] = config.batch_size
    row["test_error"] = summary([found[DENSE]["test_error"]])
    return row | {"forms": list(found.values())}


def _from_images(form: Form) -> Callable[[np.ndarray], Any]:
    return lambda images: form.run(form.place(images))


def _call(form: Form, images: np.ndarray) -> Any:
    placed = form.place(images)
    return lambda: form.run(placed)


def _weights(network: Finished, folder: Path) -> dict[str, Any]:
    """What it weighs, in memory and on disk."""
    example = jax.ShapeDtypeStruct(
        network.prepare(network.dataset.test.images[:1]).shape, np.float32
    )
    params = network.params
    small = deploy.shrink(deploy.Network(network.function, params), example, keep_unsupported=True)
    leaves = jax.tree.leaves(params)
    size, nonzeros = sum(leaf.size for leaf in leaves), sum(int((x != 0).sum()) for x in leaves)
    logits = jax.jit(network.function)
    rows = [
        {
            "file": name,
            "bytes": path.stat().st_size,
            "test_error": error(network, functools.partial(logits, read)),
        }
        for name, (path, read) in files(network, folder).items()
    ]
    return {
        "name": network.name,
        "model": network.model,
        "dataset": network.dataset_name,
        "seeds": [network.seed],
        "parameters": size,
        "nonzeros": nonzeros,
        "density": nonzeros / size,
        "shrunk_parameters": sum(leaf.size for leaf in jax.tree.leaves(small.params)),
        "macs": inspection.macs(network.function, params, example),
        "shrunk_macs": inspection.macs(small.function, small.params, example),
        "file_bytes": next(r["bytes"] for r in rows if r["file"] == "sparse, exact float32"),
        "files": rows,
    }
