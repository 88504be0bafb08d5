"""LeNet300 on MNIST: the dense references, and their compression by learning-compression."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import sparsejax
from experiments.common.networks import cross_entropy, error, mistakes, mnist_classifier
from experiments.common.runner import Recipe, Run
from experiments.data import Dataset, load
from experiments.lc_lenet300 import report
from experiments.lc_lenet300.config import ROWS, Config, Row, is_reference
from sparsejax import compression, inspection
from sparsejax.models import LENET300_LAYERS, LeNet300
from sparsejax.training import Batches, TrainState, init_state, make_step


class LeNet300Run(Run):
    """A dense reference, or the compression of one.

    Args:
      config: the flags.
      dataset: MNIST.
      row: the row of the table.
      seed: the seed of the parameters and of the order of the images.
      reference: the run that trains the dense network; None for a reference.
    """

    def __init__(
        self, config: Config, dataset: Dataset, row: Row, seed: int, reference: Run | None = None
    ):
        folder = config.folder / row / f"seed_{seed}"
        super().__init__(row, folder, config.settings(row), seed, config.resume)
        self._dataset, self._reference = dataset, reference
        model = LeNet300(self.settings["activation"], rngs=nnx.Rngs(seed))
        self._logits, self._initial = mnist_classifier(model)
        self._mistakes = mistakes(self._logits)
        self._steps_per_epoch = len(dataset.train.labels) // self.settings["batch_size"]
        if reference:  # raises where a setting is out of its range, before a step is taken
            jax.eval_shape(self._compressor()[0].init, self._initial)

    def headline(self, result: Mapping[str, Any]) -> str:
        """Error, size and units."""
        units = "-".join(map(str, result["live_units"]))
        return (
            f"{super().headline(result)}, {result['nonzeros']:,} weights "
            f"({result['density']:.2%}), units {units}"
        )

    def train(self) -> tuple[dict[str, Any], Any]:
        """Train the reference, or compress it; the network of a compression is theta."""
        if self._reference is None:
            params = self._train_reference()
        else:
            like = jax.tree.structure(self._initial)
            start = map(jnp.asarray, jax.tree.leaves(self._reference.network()))
            params = self._compress(jax.tree.unflatten(like, start))
        counts = inspection.report(params)
        return {
            "model": "lenet300",
            "dataset": "mnist",
            "name": f"lenet300_{self.row}",
            "network": {"model": "lenet300", "activation": self.settings["activation"]},
            "test_error": error(self._mistakes, params, self._dataset.test),
            "validation_error": error(self._mistakes, params, self._dataset.validation),
            "nonzeros": counts.nonzeros,
            "density": counts.density,
            "layer_nonzeros": [leaf.nonzeros for leaf in counts.leaves],
            "live_units": inspection.live_units(params, LENET300_LAYERS),
            "bzip2_bytes": inspection.bzip2_bytes(params),
            "seconds": self.metrics()[-1]["seconds"],
        }, params

    def _train_reference(self) -> Any:
        steps = self.settings["reference_epochs"] * self._steps_per_epoch
        rate = optax.cosine_decay_schedule(self.settings["learning_rate"], steps)
        optimizer = optax.sgd(rate, momentum=0.9, nesterov=True)
        return self._fit(optimizer, self._initial, rate, steps, 1, 10, self._evaluate_dense).params

    def _compress(self, params: Any) -> Any:
        settings = self.settings
        optimizer, rate = self._compressor()
        epochs = settings["first_l_step_epochs"]
        epochs += (settings["l_steps"] - 1) * settings["epochs_per_l_step"]
        final = self._fit(
            optimizer, params, rate, epochs * self._steps_per_epoch,
            settings["epochs_per_l_step"], settings["checkpoint_epochs"], self._evaluate_l_step,
        )  # fmt: skip
        return sparsejax.compressed_params(final.opt_state, final.params)

    def _fit(
        self, optimizer, params, rate, steps, report_epochs, checkpoint_epochs, evaluate
    ) -> TrainState:
        train = self._dataset.train
        images = {"image": train.images, "label": train.labels}
        return self.fit(
            make_step(self._loss, optimizer),
            init_state(params, optimizer, jax.random.key(self.seed)),
            Batches(images, self.settings["batch_size"], self.seed),
            steps=steps,
            evaluate=evaluate,
            report_every=report_epochs * self._steps_per_epoch,
            checkpoint_every=checkpoint_epochs * self._steps_per_epoch,
            learning_rate=rate,
        )

    def _loss(self, params, batch, key):
        del key
        return cross_entropy(self._logits(params, batch["image"]), batch["label"])

    def _compressor(self) -> tuple[optax.GradientTransformation, optax.Schedule]:
        settings = self.settings
        per_l_step = settings["epochs_per_l_step"] * self._steps_per_epoch
        first = settings["first_l_step_epochs"] * self._steps_per_epoch
        cooldown_start = settings["l_steps"] - settings["cooldown_l_steps"]

        def rate(step):
            l_step = jnp.maximum(0, (step - first) // per_l_step + 1)
            cooling = jnp.maximum(0, l_step - cooldown_start)
            decay = settings["learning_rate_decay"] ** l_step * settings["cooldown"] ** cooling
            return settings["learning_rate"] * decay

        # The noise of SGD leaves weights non-zero under l1, the more the larger mu is, so mu does
        # not grow in the cooldown there.
        last_growth = cooldown_start if self.row == "l1" else settings["l_steps"]

        def mu(l_step):
            return settings["mu"] * settings["mu_growth"] ** jnp.minimum(l_step, last_growth)

        transform = sparsejax.learning_compression(
            self._compression(),
            mu_schedule=mu,
            steps_per_l_step=per_l_step,
            # The C step falls on the last update of the first L step.
            steps_in_first_l_step=first - 1,
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

    def _evaluate_dense(self, state: TrainState) -> dict[str, float]:
        return {"error": error(self._mistakes, state.params, self._dataset.validation)}

    def _evaluate_l_step(self, state: TrainState) -> dict[str, float]:
        """Metrics of theta after an L step, and the error of the uncompressed network w."""
        theta = sparsejax.compressed_params(state.opt_state, state.params)
        live = inspection.live_units(theta, LENET300_LAYERS)
        gap = optax.tree.norm(jax.tree.map(jnp.subtract, state.params, theta))
        return {
            "error": error(self._mistakes, theta, self._dataset.validation),
            "uncompressed_error": self._evaluate_dense(state)["error"],
            "density": inspection.report(theta).density,
            "distance": float(gap),
            "mu": float(state.opt_state[0].mu),
            **{f"live_{layer}": count for layer, count in enumerate(live)},
        }


def plan(config: Config) -> Iterator[LeNet300Run]:
    """The references that are needed, then the compressions; all rows of a seed before the next."""
    dataset = load("mnist", config.data_dir)
    wanted = config.rows()
    needed = {row if is_reference(row) else config.reference_of(row) for row in wanted}
    runs: list[LeNet300Run] = []  # all are made first: a bad setting is seen before any training
    for seed in config.seeds:
        references = {row: LeNet300Run(config, dataset, row, seed) for row in ROWS if row in needed}
        runs += references.values()
        for row in wanted:
            if not is_reference(row):
                reference = references[config.reference_of(row)]
                runs.append(LeNet300Run(config, dataset, row, seed, reference))
    yield from runs


RECIPE = Recipe(Config, plan, report.rows, report.parts, report.figures)
