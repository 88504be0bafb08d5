"""One sweep for each method: LeNet300 on MNIST, a few epochs a run, one seed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import sparsejax
from experiments.common.networks import (
    accuracy,
    cross_entropy,
    error,
    kernels,
    mistakes,
    mnist_classifier,
)
from experiments.data import Dataset
from sparsejax import compression, gates, inspection, tickets
from sparsejax.constraints import (
    constrained_step,
    current_multipliers,
    density_violation,
    descent_ascent,
    expected_density,
    gate_groups,
    nupi,
)
from sparsejax.models import LeNet300
from sparsejax.training import Batches, fit, init_state, make_step
from sparsejax.transforms import pruning_step

KAPPA = 5324
"""Weights that learning-compression keeps: 2 % of LeNet300's."""
TARGET = 0.3
"""The expected density that constrained L0 is asked for."""
TOLERANCE = 0.003
"""What pruning may cost gated weight decay in validation accuracy."""
GROWTH = (1.2, 1.8)
"""Factors by which mu grows from L step to L step, in learning-compression."""
FIRST_MU = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Values of mu in the first L step: from one with which theta stays far from w to one with which
the first theta stays."""
_BATCH_SIZE = 250
_SEED = 0


class Sweeps:
    """The sweeps on one dataset.

    Args:
      dataset: MNIST, or a part of it.
      epochs: the length of a run.
    """

    def __init__(self, dataset: Dataset, epochs: int):
        model = LeNet300("relu", rngs=nnx.Rngs(_SEED))
        self._logits, self._initial = mnist_classifier(model)
        self._mistakes = mistakes(self._logits)
        self._dataset, self._epochs = dataset, epochs
        self._steps_per_epoch = len(dataset.train.labels) // _BATCH_SIZE
        self._steps = epochs * self._steps_per_epoch
        self._key = jax.random.key(_SEED)
        optimizer = optax.adam(1e-3)
        state = init_state(self._initial, optimizer, self._key)
        self._dense = self._fit(make_step(self._loss, optimizer), state).params

    def dense_error(self) -> float:
        """Validation error of the dense network that two of the sweeps start from, in per cent."""
        return self._error(self._dense)

    def learning_compression(self) -> Iterator[dict[str, Any]]:
        """Vary the first mu and its growth; one epoch an L step."""
        for growth in GROWTH:
            for mu in FIRST_MU:
                optimizer = optax.chain(
                    sparsejax.learning_compression(
                        compression.l0_ball(KAPPA),
                        lambda n, mu=mu, growth=growth: mu * growth**n,
                        self._steps_per_epoch,
                    ),
                    optax.sgd(optax.cosine_decay_schedule(0.1, self._steps), 0.9, nesterov=True),
                )
                state = init_state(self._dense, optimizer, self._key)
                state = self._fit(make_step(self._loss, optimizer), state)
                theta = sparsejax.compressed_params(state.opt_state, state.params)
                gap = optax.tree.norm(jax.tree.map(jnp.subtract, state.params, theta))
                yield {
                    "mu": mu,
                    "growth": growth,
                    "validation_error": self._error(theta),
                    "nonzeros": int(inspection.report(theta).nonzeros),
                    "relative_gap": float(gap / optax.tree.norm(state.params)),
                }

    def gated_weight_decay(self) -> Iterator[dict[str, Any]]:
        """Vary lambda; a tenth of the weights may go after each fifth of an epoch."""
        every = max(1, self._steps_per_epoch // 5)
        bound = 1 - self.dense_error() / 100 - TOLERANCE
        for decay in (0.0, 1e-5, 1e-4, 3e-4, 1e-3, 3e-3):
            pruner = sparsejax.prune_when_accurate(0.1, bound)
            pruning = pruner.init(self._dense)
            optimizer = optax.chain(
                sparsejax.gated_weight_decay(optax.exponential_decay(decay, every, 0.9)),
                optax.adam(1e-3),
                sparsejax.hold_zeros(pruning.mask),
            )
            step = pruning_step(
                make_step(self._loss, optimizer),
                pruner,
                lambda params: accuracy(self._logits, params, self._dataset.validation),
                every,
            )
            state = init_state(self._dense, optimizer, self._key)._replace(pruning=pruning)
            params = self._fit(step, state).params
            yield {
                "decay": decay,
                "validation_error": self._error(params),
                "nonzeros": int(inspection.report(params).nonzeros),
            }

    def constrained_l0(self) -> Iterator[dict[str, Any]]:
        """Vary the gain ki of the multiplier; the density after each epoch is kept."""
        hard = gates.hard_concrete(grouping=gates.per_input)

        def density(params: Any) -> Any:
            active = gates.broadcast_gates(
                params["weights"], hard.active_probability(params["gates"])
            )
            return gate_groups(params["weights"], active)

        def loss(params: Any, batch: Any, key: jax.Array) -> Any:
            sampled = gates.apply(params["weights"], hard.sample(params["gates"], key))
            return self._loss(sampled, batch, key)

        def excess(params: Any, batch: Any, key: jax.Array) -> Any:
            del batch, key
            return density_violation(density(params), TARGET)

        params = {
            "weights": hard.rescale(self._initial),
            "gates": hard.init(self._key, self._initial),
        }
        primal = optax.partition(
            {"weights": optax.adam(1e-3), "gates": optax.adam(3e-3)},
            {"weights": "weights", "gates": "gates"},
        )
        for ki in (1e-3, 1e-2, 1e-1):
            optimizer = descent_ascent(primal, nupi(ki=ki, kp=5.0))
            step = constrained_step(loss, excess, optimizer)
            state = init_state(params, optimizer, self._key)
            densities, multipliers = [], []
            for epoch in range(self._epochs):
                state = self._fit(step, state, epoch + 1)
                densities.append(float(expected_density(density(state.params))))
                multipliers.append(float(current_multipliers(state.opt_state)))
            median = gates.apply(state.params["weights"], hard.median(state.params["gates"]))
            yield {
                "ki": ki,
                "expected_density": densities,
                "multiplier": multipliers,
                "validation_error": self._error(median),
            }

    def tickets(self) -> Iterator[dict[str, Any]]:
        """Vary the start of the gates and their penalty, all in one population; one round."""
        pairs = [(s, p) for p in (1e-8, 3e-5) for s in (-0.3, -0.1, -0.03, 0.0, 0.03)]

        def method(hyper: Any) -> Any:
            return tickets.continuous_sparsification(
                self._steps, hyper["initial"], hyper["penalty"]
            )

        hyper = {
            "initial": jnp.asarray([initial for initial, _ in pairs]),
            "penalty": jnp.asarray([penalty for _, penalty in pairs]),
        }
        stacked = jax.tree.map(lambda leaf: jnp.stack([leaf] * len(pairs)), self._initial)
        keys = jax.random.split(self._key, len(pairs))
        optimizer = optax.sgd(optax.cosine_decay_schedule(0.1, self._steps), 0.9, nesterov=True)
        state = tickets.init_population(method, stacked, optimizer, keys, hyper)
        step = tickets.search_step(method, self._loss, optimizer)
        state = fit(step, state, self._batches(), steps=self._steps, loop=tickets.population_scan())
        found = tickets.population_tickets(method, state)
        for number, (initial, penalty) in enumerate(pairs):
            mask = jax.tree.map(lambda leaf, n=number: leaf[n], found.mask)
            yield {
                "initial": initial,
                "penalty": penalty,
                "weights_left": int(tickets.num_nonzero(mask)),
            }

    def weights(self) -> int:
        """Weights of the kernels."""
        sizes = (
            leaf.size if chosen else 0
            for leaf, chosen in zip(
                jax.tree.leaves(self._initial), jax.tree.leaves(kernels(self._initial)), strict=True
            )
        )
        return sum(sizes)

    def _loss(self, params: Any, batch: Any, key: jax.Array) -> Any:
        del key
        return cross_entropy(self._logits(params, batch["image"]), batch["label"])

    def _error(self, params: Any) -> float:
        return float(error(self._mistakes, params, self._dataset.validation))

    def _batches(self) -> Batches:
        train = self._dataset.train
        return Batches({"image": train.images, "label": train.labels}, _BATCH_SIZE, _SEED)

    def _fit(self, step: Any, state: Any, epochs: int | None = None) -> Any:
        steps = (self._epochs if epochs is None else epochs) * self._steps_per_epoch
        return fit(step, state, self._batches(), steps=steps)
