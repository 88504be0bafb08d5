"""Gated networks trained under a constraint on their density, or under a penalty."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from experiments.common.networks import cross_entropy, error, kernels, mistakes, unit_range
from experiments.common.runner import Recipe, Run
from experiments.constrained_l0 import report
from experiments.constrained_l0.config import PRESETS, SOUGHT, Config, Row
from experiments.constrained_l0.networks import (
    GatedNetwork,
    architecture,
    multiply_accumulates,
    parameters,
    published_macs,
)
from experiments.data import Dataset, load
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
from sparsejax.deploy import load_sparse, save_sparse
from sparsejax.training import Batches, TrainState, init_state

_MODELS = {"mlp": "lenet300", "lenet5": "lenet5"}
_PIECE = 1000  # images a forward pass of the purged network


class GatedRun(Run):
    """A gated network, trained and purged; beside the network its folder holds the gates."""

    def __init__(
        self, folder: Path, dataset: Dataset, settings: dict[str, Any], seed: int, resume: bool
    ):
        super().__init__(settings["row"], folder, settings, seed, resume)
        self._dataset = dataset
        drop_rates = (settings["first_drop_rate"], settings["drop_rate"])
        self.gated = GatedNetwork(settings["network"], drop_rates, seed, settings["initialisation"])
        self._splits = [dataset.train, dataset.validation][: 1 + settings["whole_training_set"]]
        examples = sum(len(split.labels) for split in self._splits)
        self._steps_per_epoch = examples // settings["batch_size"]
        self._mistakes = mistakes(self.gated.logits)
        self._evaluated = jax.jit(self.gated.evaluated)
        self._density = jax.jit(lambda p: expected_density(self.gated.activity(p)))
        # Raises where no gates could satisfy the target, before a step is taken.
        jax.block_until_ready(self._violation(self.gated.initial))
        self._optimizer()

    @property
    def title(self) -> str:
        """Its row, what is varied in it, and its seed."""
        varied = {"controllability": "target", "bisection": "penalty"}.get(self.row)
        value = f" {varied} {self.settings[varied]:g}" if varied else ""
        return f"{self.row}{value} seed {self.seed}"

    def headline(self, result: Mapping[str, Any]) -> str:
        """Errors, density and size."""
        units = "-".join(map(str, result["architecture"]))
        return (
            f"{super().headline(result)} (best epoch {result['best_test_error']:.2f} %), expected "
            f"density {result['expected_density']:.2%}, {units}, {result['macs']:,} MACs"
        )

    def log_alpha(self) -> dict[str, np.ndarray]:
        """The gates of each layer at the end."""
        found: dict[str, np.ndarray] = load_sparse(self.folder / "gates.safetensors")
        return found

    def train(self) -> tuple[dict[str, Any], Any]:
        """Train to the end; the network has the gates of evaluation multiplied in."""
        settings = self.settings
        optimizer, rate = self._optimizer()
        images, labels = map(np.concatenate, zip(*self._splits, strict=True))
        final = self.fit(
            constrained_step(self._loss, lambda p, batch, key: self._violation(p), optimizer),
            init_state(self.gated.initial, optimizer, jax.random.key(self.seed)),
            Batches({"image": images, "label": labels}, settings["batch_size"], self.seed),
            steps=settings["epochs"] * self._steps_per_epoch,
            evaluate=self._evaluate,
            checkpoint_every=settings["checkpoint_epochs"] * self._steps_per_epoch,
            learning_rate=rate,
        )
        leaves = map(np.ravel, jax.tree.leaves(final.params["gates"]))
        log_alpha = dict(zip(self.gated.kind.layers, leaves, strict=True))
        save_sparse(self.folder / "gates.safetensors", log_alpha)
        return self._result(final.params), self._evaluated(final.params)

    def _loss(
        self, params: Any, batch: Any, key: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        logits = self.gated.logits(self.gated.sampled(params, key), batch["image"])
        return cross_entropy(logits, batch["label"])

    def _violation(self, params: Any) -> Any:
        """The excess density, of the whole or by layer; the density of a penalised run."""
        activity, target = self.gated.activity(params), self.settings.get("target")
        if target is None:
            return expected_density(activity)
        if isinstance(target, list):
            target = dict(zip(activity, self._by_layer("target"), strict=True))
        return density_violation(activity, target)

    def _optimizer(self) -> tuple[optax.GradientTransformation, optax.Schedule]:
        settings = self.settings
        steps = settings["epochs"] * self._steps_per_epoch

        def rate(name: str) -> optax.Schedule:
            if settings["rate_decay"] == "none":
                return optax.constant_schedule(settings[name])
            return optax.cosine_decay_schedule(settings[name], steps)

        layers, decay = self.gated.kind.layers, settings["weight_decay"]
        lows, highs = (self._by_layer(f"log_alpha_{end}") for end in ("low", "high"))
        parts: dict[Any, optax.GradientTransformation] = {
            layer: optax.chain(optax.adam(rate("gate_learning_rate")), gates.clip_params(low, high))
            for layer, low, high in zip(layers, lows, highs, strict=True)
        }
        parts["weights"] = optax.adamw(rate("learning_rate"), weight_decay=decay, mask=kernels)
        primal = optax.partition(parts, {"weights": "weights", "gates": tuple(layers)})
        start = settings.get("penalty", 0.0)
        shapes = jax.eval_shape(self._violation, self.gated.initial)
        multipliers = jax.tree.map(lambda leaf: jnp.full(leaf.shape, start), shapes)
        return descent_ascent(primal, self._dual(steps), multipliers), rate("learning_rate")

    def _by_layer(self, name: str) -> list[float]:
        """A setting that is one number, or one for each layer."""
        given, layers = self.settings[name], self.gated.kind.layers
        values = given if isinstance(given, list) else [given] * len(layers)
        if len(values) != len(layers):
            raise ValueError(
                f"--{name.replace('_', '-')} must be one number or one for each of "
                f"{list(layers)}; got {len(values)}"
            )
        return values

    def _dual(self, steps: int) -> optax.GradientTransformation:
        settings = self.settings
        rate, fraction, margin = (
            settings[name] for name in ("dual_rate", "anneal_fraction", "margin")
        )
        if settings["dual"] == "fixed":
            return optax.set_to_zero()
        if settings["dual"] == "nupi":
            # Stated although it is the default: the results in this repository depend on it.
            dual = nupi(rate, settings["proportional_gain"], initial_average="violation")
        else:
            dual = dual_ascent(rate, restarts=settings["dual"] == "restarts")
        if not fraction and not margin:
            return dual
        largest_gap = float(1 - np.min(settings["target"]))
        bound = optax.polynomial_schedule(
            largest_gap if fraction else -margin,
            -margin,
            power=3,
            transition_steps=max(1, int(fraction * steps)),
        )
        return optax.chain(anneal_bound(bound), dual)

    def _evaluate(self, state: TrainState) -> dict[str, float]:
        weights = self._evaluated(state.params)
        multipliers = jax.tree.leaves(current_multipliers(state.opt_state))
        violations = jax.tree.leaves(self._violation(state.params))
        return {
            "error": error(self._mistakes, weights, self._dataset.validation),
            "test_error": error(self._mistakes, weights, self._dataset.test),
            "density": float(self._density(state.params)),
            "largest_violation": float(max(violations)),
            "largest_multiplier": float(max(multipliers)),
        }

    def _result(self, params: Any) -> dict[str, Any]:
        gated, test = self.gated, self._dataset.test
        small, whole = gated.purged(params), gated.kind.model(rngs=nnx.Rngs(0))
        weights = self._evaluated(params)
        images = [
            test.images[start : start + _PIECE] for start in range(0, len(test.labels), _PIECE)
        ]
        outputs = jnp.concatenate([small(unit_range(jnp.asarray(piece))) for piece in images])
        expected = jnp.concatenate([gated.logits(weights, jnp.asarray(piece)) for piece in images])
        metrics, units = self.metrics(), architecture(small)
        inside = [
            row["test_error"]
            for row in metrics
            if "target" in self.settings and row["largest_violation"] <= 0
        ]
        return {
            "model": _MODELS[self.settings["network"]],
            "dataset": "mnist",
            "name": self.row,
            "network": {"model": _MODELS[self.settings["network"]]},
            "test_error": float(100 * (outputs.argmax(-1) != test.labels).mean()),
            "validation_error": error(self._mistakes, weights, self._dataset.validation),
            "best_test_error": min(row["test_error"] for row in metrics),
            "best_test_error_inside": min(inside, default=None),
            "expected_density": float(self._density(params)),
            "layer_expected_density": {
                layer: float(expected_density(groups))
                for layer, groups in gated.activity(params).items()
            },
            "largest_violation": metrics[-1]["largest_violation"],
            "nonzeros": parameters(small),
            "density": parameters(small) / parameters(whole),
            "architecture": units,
            "macs": multiply_accumulates(small),
            "macs_share": multiply_accumulates(small) / multiply_accumulates(whole),
            "published_macs": published_macs(units),
            "published_macs_share": published_macs(units) / published_macs(architecture(whole)),
            "purging_logit_difference": float(jnp.abs(outputs - expected).max()),
            "multiplier": metrics[-1]["largest_multiplier"],
            "seconds": metrics[-1]["seconds"],
        }


def plan(config: Config) -> Iterator[GatedRun]:
    """All rows of a seed before the next seed; the bisection, which is sequential, comes last."""
    dataset = load("mnist", config.data_dir)
    # All are made before any is trained, so that a target that nothing can satisfy is seen at once.
    planned = {row: runs_of(config, dataset, row) for row in config.rows() if row != "bisection"}
    for number in range(len(config.seeds)):
        for by_variant in planned.values():
            for runs in by_variant:
                yield from runs[number : number + 1]
    if "bisection" in config.rows():
        yield from _bisection(config, dataset)


def runs_of(config: Config, dataset: Dataset, row: Row) -> list[list[GatedRun]]:
    """The runs of a row: for each variant, one of each seed."""
    variants = [(config.folder / row, config.settings(row))]
    if row == "controllability":
        variants = [
            (config.folder / row / f"target_{target:g}", config.settings(row, target=target))
            for target in config.controlled()
        ]
    return [
        [
            GatedRun(folder / f"seed_{seed}", dataset, settings, seed, config.resume)
            for seed in config.seeds_of(row)
        ]
        for folder, settings in variants
    ]


def _bisection(config: Config, dataset: Dataset) -> Iterator[GatedRun]:
    """Penalised runs, each at the geometric mean of the bounds, until one has the density."""
    low, high = SOUGHT["lowest"], SOUGHT["highest"]
    (seed,) = config.seeds_of("bisection")
    for _ in range(PRESETS[config.preset].bisection_runs):
        penalty = float(f"{math.sqrt(low * high):.4g}")
        folder = config.folder / "bisection" / f"penalty_{penalty:g}" / f"seed_{seed}"
        settings = config.settings("bisection", penalty=penalty)
        run = GatedRun(folder, dataset, settings, seed, config.resume)
        yield run
        if not run.done():  # --partial
            return
        excess = run.result()["expected_density"] - SOUGHT["target"]
        if abs(excess) <= SOUGHT["tolerance"]:
            return
        low, high = (penalty, high) if excess > 0 else (low, penalty)


RECIPE = Recipe(Config, plan, report.rows, report.parts, report.figures)
