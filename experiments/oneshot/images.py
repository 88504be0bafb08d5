"""Dense image networks, pruned by the same calls as the language model."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common.saved_runs import Finished, error, read
from experiments.oneshot.config import Config
from experiments.oneshot.unsaved import UnsavedRun
from sparsejax import inspection, oneshot
from sparsejax.oneshot import Calibration

SPARSITIES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
METHODS: Mapping[str, tuple[str, str]] = {
    "magnitude": ("magnitude", "global"),
    "wanda": ("wanda", "layer"),
    "sparsegpt": ("sparsegpt", "layer"),
    "admm": ("admm", "layer"),
    "admm_global": ("admm", "global"),
}
"""Function of `sparsejax.oneshot`, and pattern."""

_IMAGES = 2_000  # that calibrate
_BATCH = 500


class Dense(NamedTuple):
    """A finished dense network and its calibration."""

    finished: Finished
    calibration: Calibration
    logits: Callable[[Any, Any], jax.Array]
    """The network's function, jitted once for all that it is pruned to."""


@functools.lru_cache(maxsize=1)
def dense(folder: Path, data_dir: Path | None) -> Dense:
    """Read a dense network and calibrate it with its first training images."""
    finished = read(folder, data_dir, None, 0)
    images = finished.prepare(finished.dataset.train.images[:_IMAGES])
    batches = [jnp.asarray(part) for part in np.split(images, len(images) // _BATCH)]
    network = finished.network
    calibration = oneshot.calibrate(network.function, network.params, batches)
    return Dense(finished, calibration, jax.jit(network.function))


class ImageRun(UnsavedRun):
    """A dense image network that a one-shot method prunes to one sparsity; it is not saved."""

    final_field = "test_error"

    def __init__(
        self,
        row: str,
        folder: Path,
        settings: Mapping[str, Any],
        seed: int,
        config: Config,
        source: Path,
    ):
        super().__init__(row, folder, settings, seed, config.resume, final=config.final)
        self.source, self.data_dir = source, config.data_dir

    def headline(self, result: Mapping[str, Any]) -> str:
        """The validation error alone."""
        return f"validation error {result['validation_error']:.2f} %"

    def train(self) -> tuple[dict[str, Any], None]:
        """Prune and evaluate; nothing is trained."""
        finished, calibration, logits = dense(self.source, self.data_dir)
        params = finished.network.params
        start = time.perf_counter()
        if sparsity := self.settings["sparsity"]:
            method, pattern = METHODS[self.settings["method"]]
            params = oneshot.prune(params, calibration, sparsity, method, pattern)
        jax.block_until_ready(params)
        result = {
            "seconds": time.perf_counter() - start,
            "model": finished.result["model"],
            "dataset": finished.dataset.name,
            "name": self.row,
            "nonzeros": inspection.report(params).nonzeros,
        }
        for split in ("validation", "test") if self.final else ("validation",):
            result[f"{split}_error"] = error(finished, functools.partial(logits, params), split)
        return result, None


def plan(config: Config) -> Iterator[ImageRun]:
    """Yield, for each network, the dense run, then every method at every sparsity."""
    for source in config.images:
        finished = read(source, config.data_dir, None, 0)
        network = f"{finished.result['model']}_{finished.dataset.name}"
        seed = finished.result["seed"]
        for method, sparsity in [("dense", 0.0), *((m, s) for m in METHODS for s in SPARSITIES)]:
            row = f"{network}_{method}" + (f"_{round(100 * sparsity)}" if sparsity else "")
            settings = {"row": row, "preset": config.preset, "images": _IMAGES}
            settings |= {"method": method, "sparsity": sparsity}
            folder = config.folder / row / f"seed_{seed}"
            yield ImageRun(row, folder, settings, seed, config, source)
