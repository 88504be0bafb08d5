"""One run: the reference, or a compression of it."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import sparsejax
from experiments.common.loss import cross_entropy
from experiments.common.runs import error
from experiments.data import Dataset, Split
from experiments.lc_lenet300.config import Config, Row
from sparsejax import compression, inspection
from sparsejax.models import LENET300_LAYERS, LeNet300
from sparsejax.training import (
    Batches,
    Checkpoints,
    MetricLog,
    ProgressBar,
    TrainState,
    fit,
    init_run_dir,
    init_state,
    make_step,
    read_metrics,
    report,
    write_json,
)


class Run:
    """One row of the table for one seed, in its own folder.

    ``result.json`` and ``network.npz`` there mean that it has ended.
    """

    def __init__(self, config: Config, dataset: Dataset, row: Row, seed: int):
        self.config, self.row, self.seed = config, row, seed
        self.folder = config.output / row / f"seed_{seed}"
        self.settings = config.settings(row) | {"seed": seed}
        self._dataset = dataset
        model = LeNet300(self.settings["activation"], rngs=nnx.Rngs(seed))
        self._graph, self._initial, self._rest = nnx.split(model, nnx.Param, ...)
        self._mistakes = jax.jit(lambda p, x, y: (self._logits(p, x).argmax(-1) != y).sum())

    def done(self) -> bool:
        """Whether it has ended."""
        return (self.folder / "result.json").exists() and (self.folder / "network.npz").exists()

    def result(self) -> dict[str, Any]:
        """What it ended with."""
        return json.loads((self.folder / "result.json").read_text())

    def network(self) -> Any:
        """The parameters it ended with: theta for a compression."""
        with np.load(self.folder / "network.npz") as file:
            leaves = [jnp.asarray(file[name]) for name in sorted(file.files)]
        return jax.tree.unflatten(jax.tree.structure(self._initial), leaves)

    def train(self, reference: Any) -> dict[str, Any]:
        """Run to the end and return the result; ``reference`` is None for the reference itself."""
        compresses, settings = reference is not None, self.settings
        optimizer, learning_rate = self._compressor() if compresses else self._dense_optimizer()
        epochs, report_epochs, checkpoint_epochs = settings["reference_epochs"], 1, 10
        if compresses:
            epochs = settings["first_l_step_epochs"]
            epochs += (settings["l_steps"] - 1) * settings["epochs_per_l_step"]
            report_epochs = settings["epochs_per_l_step"]
            checkpoint_epochs = settings["checkpoint_epochs"]
        start = init_state(
            reference if compresses else self._initial, optimizer, jax.random.key(self.seed)
        )
        train = self._dataset.train
        images = {"image": train.images, "label": train.labels}
        steps = epochs * self.steps_per_epoch
        folder = init_run_dir(self.folder, settings, self.config.resume)
        reports = report(
            MetricLog(folder),
            ProgressBar(steps, f"{self.row} seed {self.seed}"),
            evaluate=self._evaluate_l_step if compresses else self._evaluate_dense,
            every=report_epochs * self.steps_per_epoch,
        )
        every = checkpoint_epochs * self.steps_per_epoch
        final = fit(
            make_step(self._loss, optimizer),
            start,
            Batches(images, self.config.batch_size, self.seed),
            steps=steps,
            callbacks=[reports],
            checkpoints=Checkpoints(folder / "checkpoints", every=every),
            learning_rate=learning_rate,
        )
        params = final.params
        if compresses:
            params = sparsejax.compressed_params(final.opt_state, params)
        return self._finish(params)

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch."""
        return len(self._dataset.train.labels) // self.config.batch_size

    def error(self, params: Any, split: Split) -> float:
        """Misclassified images of a split in per cent."""
        return error(self._mistakes, params, split)

    def _logits(self, params, images):
        return nnx.merge(self._graph, params, self._rest)(images.astype(jnp.float32) / 255)

    def _loss(self, params, batch, key):
        del key
        logits = self._logits(params, batch["image"])
        return cross_entropy(logits, batch["label"])

    def _dense_optimizer(self):
        steps = self.settings["reference_epochs"] * self.steps_per_epoch
        rate = optax.cosine_decay_schedule(self.settings["learning_rate"], steps)
        return optax.sgd(rate, momentum=0.9, nesterov=True), rate

    def _compressor(self):
        settings = self.settings
        per_l_step = settings["epochs_per_l_step"] * self.steps_per_epoch
        first = settings["first_l_step_epochs"] * self.steps_per_epoch
        cooldown_start = settings["l_steps"] - settings["cooldown_l_steps"]

        def rate(step):
            l_step = jnp.maximum(0, (step - first) // per_l_step + 1)
            cooling = jnp.maximum(0, l_step - cooldown_start)
            decay = settings["learning_rate_decay"] ** l_step * settings["cooldown"] ** cooling
            return settings["learning_rate"] * decay

        # What the noise of SGD leaves non-zero under l1 grows with mu, so there mu rests meanwhile.
        last_growth = cooldown_start if self.row == "l1" else settings["l_steps"]

        def mu(l_step):
            return settings["mu"] * settings["mu_growth"] ** jnp.minimum(l_step, last_growth)

        transform = sparsejax.learning_compression(
            self._compression(),
            mu_schedule=mu,
            steps_per_l_step=per_l_step,
            steps_in_first_l_step=first
            - 1,  # its C step falls on the last update of the first L step
            multipliers=settings["multipliers"],
        )
        chain = [transform, optax.sgd(rate, momentum=0.9, nesterov=True)]
        if settings.get("formulation") == "l_step":
            kernels = lambda params: jax.tree.map(lambda leaf: leaf.ndim >= 2, params)  # noqa: E731
            chain.insert(1, optax.add_decayed_weights(2 * settings["decay"], kernels))
        return optax.chain(*chain), rate

    def _compression(self) -> compression.Compression:
        settings = self.settings
        if self.row == "l1":
            return compression.l1_penalty(settings["alpha"])
        if self.row == "l0" or settings["formulation"] == "l_step":
            return compression.l0_ball(settings["kappa"])
        return compression.l0_ball_l2(settings["kappa"], settings["decay"])

    def _evaluate_dense(self, state: TrainState) -> Mapping[str, float]:
        return {"error": self.error(state.params, self._dataset.validation)}

    def _evaluate_l_step(self, state: TrainState) -> Mapping[str, float]:
        """Of theta after an L step; the network w in training is beside it."""
        theta = sparsejax.compressed_params(state.opt_state, state.params)
        live = inspection.live_units(theta, LENET300_LAYERS)
        lc_state = state.opt_state[0]
        gap = optax.tree.norm(jax.tree.map(jnp.subtract, state.params, theta))
        return {
            "error": self.error(theta, self._dataset.validation),
            "uncompressed_error": self.error(state.params, self._dataset.validation),
            "density": inspection.report(theta).density,
            "distance": float(gap),
            "mu": float(lc_state.mu),
            **{f"live_{layer}": count for layer, count in enumerate(live)},
        }

    def _finish(self, params: Any) -> dict[str, Any]:
        names = (f"{number:02d}" for number in itertools.count())
        leaves: Any = dict(zip(names, map(np.asarray, jax.tree.leaves(params)), strict=False))
        np.savez(self.folder / "network.npz", **leaves)
        counts = inspection.report(params)
        result = {
            "settings": self.settings,
            "test_error": self.error(params, self._dataset.test),
            "validation_error": self.error(params, self._dataset.validation),
            "nonzeros": counts.nonzeros,
            "density": counts.density,
            "layer_nonzeros": [leaf.nonzeros for leaf in counts.leaves],
            "live_units": inspection.live_units(params, LENET300_LAYERS),
            "bzip2_bytes": inspection.bzip2_bytes(params),
            "seconds": read_metrics(self.folder)[-1]["seconds"],
            "finished": time.strftime("%Y-%m-%d", time.gmtime()),
        }
        write_json(self.folder / "result.json", result)
        return result
