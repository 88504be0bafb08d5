"""LeNet300 on MNIST: the dense references, and their compression by learning-compression."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import sparsejax
from experiments.common.lenet300 import LeNet300Run, about
from experiments.common.runner import Recipe
from experiments.data import load
from experiments.lc_lenet300 import report
from experiments.lc_lenet300.config import ROWS, Config, Row, is_reference
from sparsejax import compression, inspection
from sparsejax.models import LENET300_LAYERS


class PrunedRun(LeNet300Run):
    """A dense reference, or the pruning of one."""

    def headline(self, result: Mapping[str, Any]) -> str:
        """Error, size and units."""
        units = "-".join(map(str, result["live_units"]))
        return (
            f"{super().headline(result)}, {result['nonzeros']:,} weights "
            f"({result['density']:.2%}), units {units}"
        )

    def train(self) -> tuple[dict[str, Any], Any]:
        """Train the reference, or compress it; the network of a compression is theta."""
        state = self.fit_to_end()
        params = state.params
        if self.reference is not None:
            params = sparsejax.compressed_params(state.opt_state, params)
        counts = inspection.report(params)
        return about(self) | {
            "test_error": self.error(params, "test"),
            "validation_error": self.error(params, "validation"),
            "nonzeros": counts.nonzeros,
            "density": counts.density,
            "layer_nonzeros": [leaf.nonzeros for leaf in counts.leaves],
            "live_units": inspection.live_units(params, LENET300_LAYERS),
            "bzip2_bytes": inspection.bzip2_bytes(params),
        }, params

    def last_growth_of_mu(self) -> int:
        """The L step after which mu stays."""
        # The noise of SGD leaves weights non-zero under l1, the more the larger mu is, so mu does
        # not grow in the cooldown there.
        settings = self.settings
        cooldown = settings["cooldown_l_steps"] if self.row == "l1" else 0
        return int(settings["l_steps"] - cooldown)

    def c_step(self) -> tuple[compression.Compression, None]:
        """The C step of the row, on all kernels."""
        settings = self.settings
        if self.row == "l1":
            return compression.l1_penalty(settings["alpha"]), None
        if self.row == "l0" or settings["formulation"] == "l_step":
            return compression.l0_ball(settings["kappa"]), None
        return compression.l0_ball_l2(settings["kappa"], settings["decay"]), None


def plan(config: Config) -> Iterator[PrunedRun]:
    """The references that are needed, then the compressions; all rows of a seed before the next."""
    dataset = load("mnist", config.data_dir, validation_fold=config.validation_fold)
    wanted = config.rows()
    needed = {row if is_reference(row) else config.reference_of(row) for row in wanted}
    runs: list[PrunedRun] = []  # all are made first: a bad setting is seen before any training
    for seed in config.seeds:

        def made(row: Row, reference: PrunedRun | None = None, seed: int = seed) -> PrunedRun:
            folder = config.folder / row / f"seed_{seed}"
            settings = config.settings(row)
            return PrunedRun(row, folder, settings, seed, config.resume, dataset, reference)

        references = {row: made(row) for row in ROWS if row in needed}
        runs += references.values()
        runs += [
            made(row, references[config.reference_of(row)])
            for row in wanted
            if not is_reference(row)
        ]
    yield from runs


RECIPE = Recipe(Config, plan, report.rows, report.parts, report.figures)
