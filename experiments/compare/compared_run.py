"""A method with one budget and seed: search, prune, fine-tune, and what that ends with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experiments.compare.config import TASKS, TUNING_SEED
from experiments.compare.methods import METHODS
from experiments.compare.trainer import Trainer
from sparsejax import inspection
from sparsejax.training import TrainingDivergedError


class ComparedRun(Trainer):
    """A method with one budget and seed. No test error is computed of one that chooses settings."""

    @property
    def tuning(self) -> bool:
        """Whether it is one of the runs that choose settings."""
        return self.seed == TUNING_SEED

    @property
    def title(self) -> str:
        """Its network, method, budget and seed."""
        settings = self.settings
        what = f"{settings['network']} {settings['method']} {settings['kept_percent']} %"
        return f"{what}{' tuning' if self.tuning else f' seed {self.seed}'}"

    def headline(self, result: Mapping[str, Any]) -> str:
        """The validation error alone."""
        if "diverged" in result:
            return f"diverged ({result['diverged']})"
        return f"validation error {result['validation_error']:.2f} %, {result['nonzeros']:,} left"

    def done(self) -> bool:
        """See `Run.done`; a run that diverged has ended, too, without a network."""
        file = self.folder / "result.json"
        if file.exists() and "diverged" in (result := self.result()):
            return bool(result["settings"] == self.settings)
        return super().done()

    def train(self) -> tuple[dict[str, Any], Any]:
        """Train; where the loss or a parameter is not finite any more, that is the result."""
        about = {
            "model": TASKS[self.settings["network"]].name,
            "dataset": self.dataset.name,
            "name": self.row,
        }
        try:
            result, params = self.trained()
        except TrainingDivergedError as error:
            reason = str(error).partition(";")[0]
            return about | {"diverged": reason, "seconds": self.seconds()}, None
        return about | result, params

    def phases(self) -> dict[str, list[dict[str, float]]]:
        """The metrics of each phase, a row for each epoch."""
        return {
            folder.name: rows
            for folder in sorted(self.folder.iterdir())
            if folder.is_dir() and (rows := self.metrics(folder.name))
        }

    def seconds(self) -> float:
        """Seconds of all phases, with compilation and validation."""
        return sum(rows[-1]["seconds"] for rows in self.phases().values())

    def spend(self) -> tuple[Any, int]:
        """Search, prune what is above the budget, and fine-tune for the rest of the epochs.

        Returns:
          The parameters, and the number of weights that the search left.
        """
        method = METHODS[self.settings["method"]]
        epochs = self.share(self.settings.get("search_share", method.search_share))
        found = method.search(self, epochs)
        params = self.project(found)
        if epochs < self.epochs:
            rate = self.settings["rate"]
            params = self.fine_tune("fine_tune", params, rate, self.epochs - epochs)
        return params, inspection.report(found).nonzeros

    def trained(self) -> tuple[dict[str, Any], Any]:
        """The result of a run that did not diverge, and its parameters."""
        params, left = self.spend()
        task, phases = TASKS[self.settings["network"]], self.phases()
        kernels = inspection.report(params)
        of_layers = {
            layer: leaf.nonzeros
            for layer in task.layers
            for leaf in kernels.leaves
            if f"'{layer}'" in leaf.path
        }
        result = {
            "network": {"model": task.name},
            "validation_error": self.error(params, "validation"),
            "kept": self.kept,
            "nonzeros": kernels.nonzeros,
            "nonzeros_after_search": left,
            "layer_nonzeros": of_layers,
            "live_units": inspection.live_units(params, task.layers),
            "losses": {phase: rows[-1]["loss"] for phase, rows in phases.items()},
            "epochs": sum(rows[-1]["epoch"] for rows in phases.values()),
            "seconds": self.seconds(),
        }
        if not self.tuning:
            result["test_error"] = self.error(params, "test")
        return result, params
