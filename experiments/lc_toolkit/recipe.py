"""LeNet300 on MNIST: the dense reference, and its compression in each way of the table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax

import sparsejax
from experiments.common.lenet300 import LeNet300Run, about
from experiments.common.runner import Recipe
from experiments.data import load
from experiments.lc_toolkit import report
from experiments.lc_toolkit.c_steps import C_STEPS, where
from experiments.lc_toolkit.config import Config, Row
from sparsejax import compression, inspection


class CompressedRun(LeNet300Run):
    """The dense reference, or a compression of it. Its result holds no test error."""

    def headline(self, result: Mapping[str, Any]) -> str:
        """The validation error alone, so that no choice is made by the test images."""
        return f"validation error {result['validation_error']:.2f} %"

    def train(self) -> tuple[dict[str, Any], Any]:
        """Train the reference, or compress it; the network of a compression is theta's forms."""
        state = self.fit_to_end()
        network, ranks = state.params, []
        if self.reference is not None:
            network = sparsejax.compressed_forms(self.c_step()[0], state.opt_state, network)
            ranks = _ranks(state.opt_state[0].compression)
        bits = inspection.storage_bits(network)
        return about(self) | {
            "validation_error": self.error(compression.decode(network), "validation"),
            "storage_bits": bits.total,
            "compression_ratio": bits.compression_ratio,
            "ranks": ranks,
        }, network

    def test_error(self) -> float:
        """The test error of the network that the run ended with."""
        return self.error(self.params(), "test")

    def c_step(self) -> tuple[compression.Compression, Any]:
        """The C step of the row, and the kernels that it compresses."""
        return C_STEPS[self.row](), where(self.row)


def _ranks(c_step_state: Any) -> list[int]:
    """The rank that was chosen for each kernel; nothing where the C step chooses none."""
    if not isinstance(c_step_state, compression.RankSelectionState):
        return []
    return [int(rank) for rank in jax.tree.leaves(c_step_state.ranks)]


def plan(config: Config) -> Iterator[CompressedRun]:
    """The reference of each seed, then its compressions."""
    dataset = load("mnist", config.data_dir, validation_fold=config.validation_fold)
    runs: list[CompressedRun] = []  # all are made first: a bad setting is seen before any training
    for seed in config.seeds:

        def made(row: Row, reference: Any = None, seed: int = seed) -> CompressedRun:
            folder = config.folder / row / f"seed_{seed}"
            settings = config.settings(row)
            return CompressedRun(row, folder, settings, seed, config.resume, dataset, reference)

        reference = made("reference")
        runs.append(reference)
        runs += [made(row, reference) for row in config.rows() if row != "reference"]
    yield from runs


RECIPE = Recipe(Config, plan, report.rows, report.parts, report.figures)
