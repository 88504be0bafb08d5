"""One run: a start, pruning under gated weight decay, fine-tuning of what is left."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import lax

import sparsejax
from experiments.common.runs import FolderRun, error
from experiments.data import Dataset, Split
from experiments.gated_decay.config import PARAMETERS
from sparsejax import inspection
from sparsejax.models import LENET5_LAYERS, LeNet5
from sparsejax.training import fit, init_state, make_step, read_metrics, write_json
from sparsejax.transforms import PruningState, pruning_step

_CHUNK = 500  # images a forward pass of the assessment inside the step


class PruningTrainState(NamedTuple):
    """A ``TrainState`` that prunes."""

    step: jax.Array
    params: Any
    opt_state: Any
    key: jax.Array
    pruning: PruningState


class Run(FolderRun):
    """One row of the table for one seed; in its folder a folder for each phase."""

    def __init__(
        self, folder: Path, dataset: Dataset, settings: dict[str, Any], seed: int, resume: bool
    ):
        super().__init__(folder, settings, seed, resume)
        self._dataset = dataset
        model = LeNet5(rngs=nnx.Rngs(seed))
        self._graph, self._initial, self._rest = nnx.split(model, nnx.Param, ...)
        self._mistakes = jax.jit(lambda p, x, y: (self._logits(p, x).argmax(-1) != y).sum())
        # Raises where an argument is out of its range, before a step is taken.
        self._pruner = sparsejax.prune_when_accurate(
            settings["fraction"], settings["lower_bound"], _everything
        )

    def metrics(self, phase: str) -> list[dict[str, float]]:
        """A row for each epoch of a phase: ``start``, ``prune`` or ``finetune``."""
        return read_metrics(self.folder / phase)

    def network(self) -> dict[str, np.ndarray]:
        """The parameters it ended with, by path."""
        with np.load(self.folder / "network.npz") as file:
            return {name: file[name] for name in file.files}

    def train(self) -> dict[str, Any]:
        """Run to the end and return the result."""
        settings, params = self.settings, self._initial
        if settings["start_epochs"]:
            params = self._start(params)
        pruned = self._prune(params)
        params = self._finetune(pruned.params, pruned.pruning)
        return self._finish(params, pruned)

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch."""
        return len(self._dataset.train.labels) // self.settings["batch_size"]

    def _start(self, params: Any) -> Any:
        optimizer = optax.adam(self.settings["learning_rate"])
        state = init_state(params, optimizer, jax.random.key(self.seed))
        step = make_step(self._loss, optimizer)
        return self._fit("start", step, state, self._density).params

    def _prune(self, params: Any) -> Any:
        settings = self.settings
        every = settings["eval_interval"]
        decay = optax.exponential_decay(settings["decay"], every, settings["decay_rate"])
        pruning = self._pruner.init(params)
        optimizer = optax.chain(
            sparsejax.gated_weight_decay(decay, _everything),
            optax.adam(settings["learning_rate"]),
            sparsejax.hold_zeros(pruning.mask),
        )
        step = pruning_step(make_step(self._loss, optimizer), self._pruner, self._accuracy, every)
        start = init_state(params, optimizer, jax.random.key(self.seed))
        patience = settings["patience"]

        def plateau(state: Any) -> bool:
            return bool(patience) and int(state.pruning.since_pruning) >= patience

        return self._fit(
            "prune", step, PruningTrainState(*start, pruning),
            lambda state: {
                "density": int(state.pruning.remaining) / PARAMETERS,
                "prunings": int(state.pruning.prunings),
            },
            stop_when=plateau,
        )  # fmt: skip

    def _finetune(self, params: Any, pruning: PruningState) -> Any:
        settings = self.settings
        steps = settings["finetune_epochs"] * self.steps_per_epoch
        rate = optax.cosine_decay_schedule(settings["finetune_rate"], steps)
        optimizer = optax.chain(optax.adam(rate), sparsejax.hold_zeros(pruning.mask))
        state = init_state(params, optimizer, jax.random.key(self.seed))
        step = make_step(self._loss, optimizer)
        return self._fit("finetune", step, state, self._density).params

    def _fit(self, phase: str, step: Any, state: Any, about: Callable, **options: Any) -> Any:
        train = self._dataset.train
        return fit(
            step,
            state,
            {"image": train.images, "label": train.labels},
            batch_size=self.settings["batch_size"],
            steps=self.settings[f"{phase}_epochs"] * self.steps_per_epoch,
            seed=self.seed,
            evaluate=lambda s: {
                "error": self._error(s.params, self._dataset.validation), **about(s)
            },
            folder=self.folder / phase,
            config=self.settings,
            resume=self.resumes,
            name=f"{self.title}, {phase}",
            **options,
        )  # fmt: skip

    def _logits(self, params, images):
        return nnx.merge(self._graph, params, self._rest)(images.astype(jnp.float32) / 255)

    def _loss(self, params, batch, key):
        del key
        logits = self._logits(params, batch["image"])
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()
        return loss, {"train_error": 100 * (logits.argmax(-1) != batch["label"]).mean()}

    def _accuracy(self, params):
        """On the validation split, inside a step."""
        images, labels = self._dataset.validation

        def right(chunk):
            return (self._logits(params, chunk[0]).argmax(-1) == chunk[1]).sum()

        chunks = jax.tree.map(
            lambda array: jnp.asarray(array).reshape(-1, _CHUNK, *array.shape[1:]), (images, labels)
        )
        return lax.map(right, chunks).sum() / len(labels)

    def _density(self, state: Any) -> dict[str, float]:
        return {"density": inspection.report(state.params, _everything).density}

    def _error(self, params: Any, split: Split) -> float:
        return error(self._mistakes, params, split)

    def _finish(self, params: Any, pruned: Any) -> dict[str, Any]:
        counts = inspection.report(params, _everything)
        phases = [phase for phase in ("start", "prune", "finetune") if self.metrics(phase)]
        layers = [inspection.report(params[layer], _everything) for layer in LENET5_LAYERS]
        result = {
            "settings": self.settings,
            "test_error": self._error(params, self._dataset.test),
            "validation_error": self._error(params, self._dataset.validation),
            "pruned_validation_error": self._error(pruned.params, self._dataset.validation),
            "nonzeros": counts.nonzeros,
            "density": counts.density,
            "layer_nonzeros": [layer.nonzeros for layer in layers],
            "layer_density": [layer.density for layer in layers],
            "live_units": inspection.live_units(params, LENET5_LAYERS),
            "prunings": int(pruned.pruning.prunings),
            "bzip2_bytes": inspection.bzip2_bytes(params),
            "dense_bzip2_bytes": inspection.bzip2_bytes(self._initial),
            "seconds": sum(self.metrics(phase)[-1]["seconds"] for phase in phases),
            "finished": time.strftime("%Y-%m-%d", time.gmtime()),
        }
        flat: Any = {
            f"{layer}/{name}": np.asarray(params[layer][name][...])
            for layer in LENET5_LAYERS
            for name in ("kernel", "bias")
        }
        np.savez(self.folder / "network.npz", **flat)
        write_json(self.folder / "result.json", result)
        return result


def _everything(path: Any, leaf: Any) -> bool:
    """Biases too, as in the published code."""
    del path, leaf
    return True
