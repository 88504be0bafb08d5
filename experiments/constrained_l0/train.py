"""One run: a gated network trained under a constraint on its density, or under a penalty."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from experiments.common.loss import cross_entropy
from experiments.common.runs import FolderRun, error
from experiments.constrained_l0.networks import (
    GatedNetwork,
    architecture,
    multiply_accumulates,
    parameters,
    published_macs,
)
from experiments.data import Dataset, Split
from sparsejax import gates
from sparsejax.constraints import (
    anneal_bound,
    constrained_step,
    current_multipliers,
    density_violation,
    descent_ascent,
    dual_ascent,
    expected_density,
    nupi,
)
from sparsejax.training import (
    Batches,
    Checkpoints,
    MetricLog,
    ProgressBar,
    TrainState,
    fit,
    init_run_dir,
    init_state,
    read_metrics,
    report,
    write_json,
)


class Run(FolderRun):
    """A gated network trained with one list of settings and one seed, in its own folder."""

    def __init__(
        self, folder: Path, dataset: Dataset, settings: dict[str, Any], seed: int, resume: bool
    ):
        super().__init__(folder, settings, seed, resume)
        self._dataset = dataset
        drop_rates = (settings["first_drop_rate"], settings["drop_rate"])
        self.network = GatedNetwork(
            settings["network"], drop_rates, seed, settings["initialisation"]
        )
        network = self.network
        self._mistakes = jax.jit(lambda w, x, y: (network.logits(w, x).argmax(-1) != y).sum())
        self._settled = jax.jit(network.settled)
        self._density = jax.jit(lambda p: expected_density(network.activity(p)))
        # Raises where no gates could satisfy the target, before a step is taken.
        jax.block_until_ready(self._violation(network.initial))
        self._optimizer()

    @property
    def title(self) -> str:
        """Its row, what is varied in it, and its seed."""
        settings, varied = self.settings, ""
        if settings["row"] == "controllability":
            varied = f" target {settings['target']:g}"
        elif settings["row"] == "bisection":
            varied = f" penalty {settings['penalty']:g}"
        return f"{settings['row']}{varied} seed {self.seed}"

    def metrics(self) -> list[dict[str, float]]:
        """A row for each epoch."""
        return read_metrics(self.folder)

    def log_alpha(self) -> dict[str, np.ndarray]:
        """Of each layer, at the end."""
        with np.load(self.folder / "network.npz") as file:
            names = [name for name in file.files if name.startswith("log_alpha")]
            return {name.split("/", 1)[1]: file[name] for name in names}

    def train(self) -> dict[str, Any]:
        """Run to the end and return the result."""
        settings = self.settings
        optimizer, rate = self._optimizer()
        start = init_state(self.network.initial, optimizer, jax.random.key(self.seed))
        images, labels = map(np.concatenate, zip(*self._splits(), strict=True))
        steps = settings["epochs"] * self.steps_per_epoch
        folder = init_run_dir(self.folder, settings, self.resumes)
        every = settings["checkpoint_epochs"] * self.steps_per_epoch
        bar = ProgressBar(steps, self.title)
        final = fit(
            constrained_step(self._loss, lambda p, batch, key: self._violation(p), optimizer),
            start,
            Batches({"image": images, "label": labels}, settings["batch_size"], self.seed),
            steps=steps,
            callbacks=[report(MetricLog(folder), bar, evaluate=self._evaluate)],
            checkpoints=Checkpoints(folder / "checkpoints", every=every),
            learning_rate=rate,
        )
        return self._finish(final.params)

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch."""
        return sum(len(split.labels) for split in self._splits()) // self.settings["batch_size"]

    def _splits(self) -> list[Split]:
        """What it trains on."""
        whole = self.settings["whole_training_set"]
        return [self._dataset.train, self._dataset.validation][: 1 + whole]

    def _loss(self, params, batch, key):
        logits = self.network.logits(self.network.sampled(params, key), batch["image"])
        return cross_entropy(logits, batch["label"])

    def _violation(self, params):
        """The density's excess, of the whole or by layer; of a penalised run, the density."""
        activity, target = self.network.activity(params), self.settings.get("target")
        if target is None:
            return expected_density(activity)
        if isinstance(target, list):
            target = dict(zip(activity, self._by_layer("target"), strict=True))
        return density_violation(activity, target)

    def _optimizer(self):
        settings = self.settings
        steps = settings["epochs"] * self.steps_per_epoch

        def rate(name):
            if settings["rate_decay"] == "none":
                return optax.constant_schedule(settings[name])
            return optax.cosine_decay_schedule(settings[name], steps)

        layers, decay = self.network.kind.layers, settings["weight_decay"]
        lows, highs = (self._by_layer(f"log_alpha_{end}") for end in ("low", "high"))
        primal = optax.partition(
            {"weights": optax.adamw(rate("learning_rate"), weight_decay=decay, mask=_kernels)}
            | {
                layer: optax.chain(
                    optax.adam(rate("gate_learning_rate")), gates.clip_params(low, high)
                )
                for layer, low, high in zip(layers, lows, highs, strict=True)
            },
            {"weights": "weights", "gates": tuple(layers)},
        )
        start = settings.get("penalty", 0.0)
        shapes = jax.eval_shape(self._violation, self.network.initial)
        multipliers = jax.tree.map(lambda leaf: jnp.full(leaf.shape, start), shapes)
        return descent_ascent(primal, self._dual(steps), multipliers), rate("learning_rate")

    def _by_layer(self, name: str) -> list[float]:
        """A setting that is one number, or one for each layer."""
        given, layers = self.settings[name], self.network.kind.layers
        values = given if isinstance(given, list) else [given] * len(layers)
        if len(values) != len(layers):
            raise ValueError(
                f"--{name.replace('_', '-')} must be one number or one for each of "
                f"{list(layers)}; got {len(values)}"
            )
        return values

    def _dual(self, steps: int) -> optax.GradientTransformation:
        settings = self.settings
        rate = settings["dual_rate"]
        if settings["dual"] == "fixed":
            return optax.set_to_zero()
        if settings["dual"] == "nupi":
            # Said although it is the default: the results in this repository were made with it.
            dual = nupi(rate, settings["proportional"], initial_average="violation")
        else:
            dual = dual_ascent(rate, restarts=settings["dual"] == "restarts")
        if not settings["closing"] and not settings["margin"]:
            return dual
        targets = np.atleast_1d(settings["target"])
        closing = optax.polynomial_schedule(
            float(1 - targets.min()) if settings["closing"] else -settings["margin"],
            -settings["margin"],
            power=3,
            transition_steps=max(1, int(settings["closing"] * steps)),
        )
        return optax.chain(anneal_bound(closing), dual)

    def _error(self, weights: Any, split: Split) -> float:
        return error(self._mistakes, weights, split)

    def _evaluate(self, state: TrainState) -> dict[str, float]:
        weights = self._settled(state.params)
        multipliers = jax.tree.leaves(current_multipliers(state.opt_state))
        violations = jax.tree.leaves(self._violation(state.params))
        return {
            "error": self._error(weights, self._dataset.validation),
            "test_error": self._error(weights, self._dataset.test),
            "density": float(self._density(state.params)),
            "largest_violation": float(max(violations)),
            "largest_multiplier": float(max(multipliers)),
        }

    def _finish(self, params: Any) -> dict[str, Any]:
        network, test = self.network, self._dataset.test
        small = network.purged(params)
        weights = self._settled(params)
        images = jnp.asarray(test.images, jnp.float32) / 255
        pieces = [images[start : start + 1000] for start in range(0, len(images), 1000)]
        outputs = jnp.concatenate([small(piece) for piece in pieces])
        whole = jnp.concatenate([network.logits(weights, 255 * piece) for piece in pieces])
        layers = {
            layer: float(expected_density(groups))
            for layer, groups in network.activity(params).items()
        }
        metrics = self.metrics()
        inside = [
            row["test_error"]
            for row in metrics
            if "target" in self.settings and row["largest_violation"] <= 0
        ]
        whole_network = network.kind.model(rngs=nnx.Rngs(0))
        units, all_units = architecture(small), architecture(whole_network)
        result = {
            "settings": self.settings,
            "test_error": float(100 * (outputs.argmax(-1) != test.labels).mean()),
            "validation_error": self._error(weights, self._dataset.validation),
            "best_test_error": min(row["test_error"] for row in metrics),
            "best_test_error_inside": min(inside, default=None),
            "expected_density": float(self._density(params)),
            "layer_expected_density": layers,
            "largest_violation": metrics[-1]["largest_violation"],
            "nonzeros": parameters(small),
            "density": parameters(small) / parameters(whole_network),
            "architecture": units,
            "macs": multiply_accumulates(small),
            "macs_share": multiply_accumulates(small) / multiply_accumulates(whole_network),
            "published_macs": published_macs(units),
            "published_macs_share": published_macs(units) / published_macs(all_units),
            "purging_moved_a_logit_by": float(jnp.abs(outputs - whole).max()),
            "multiplier": metrics[-1]["largest_multiplier"],
            "seconds": metrics[-1]["seconds"],
            "finished": time.strftime("%Y-%m-%d", time.gmtime()),
        }
        leaves = jax.tree.leaves(params["gates"])
        gates_of: Any = {
            f"log_alpha/{layer}": np.asarray(leaf).ravel()
            for layer, leaf in zip(network.kind.layers, leaves, strict=True)
        }
        np.savez(self.folder / "network.npz", **gates_of)
        write_json(self.folder / "result.json", result)
        return result


def _kernels(weights: Any) -> Any:
    """Which weights decay: all but the biases."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, weights)
